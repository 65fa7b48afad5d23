"""n-gram speculation: tokens a step that real corrections would accept, and what a step costs that verifies more.

    python -m benchmarks.align DATA --part speculation --write

Accepted: 805 published corrections of an aligner (aligner-2b on GPT-4 Turbo's answers to AlpacaEval), as token ids of
MiniLM's WordPiece (lower-cased, so a little too hopeful). After question, answer and the correction so far, the last 4,
else 3, else 2 tokens are looked up where they stood first, and the k tokens that followed there are proposed; the
correct ones at their beginning are accepted, and each step gives one token more. A step without a match proposes none.

Cost: vLLM with a Llama of about 100 million weights that repeats the last token for ever, so that every proposal is
there and right; seconds a step with k proposals over seconds without, for 1 request and for 64, once all are at work.
Change of tokens/s: tokens a step over the cost of steps with and without proposals in the measured shares.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.align.responses import find_minilm, read_outputs
from benchmarks.generation import write_random_model
from benchmarks.processes import Result, middle, run_alone, take_turns
from benchmarks.record import record
from transforms.training_data.aligner_format import aligner_prompt

CORRECTIONS = "aligner-2b_gpt-4-turbo-2024-04-09"
SIZES = (4, 3, 2)  # of the n-grams looked up, first the longest
PROPOSED = (2, 3, 4, 5)
BATCHES = (1, 64)
PROMPT_TOKENS, STEPS = 64, 24
PAYS = 1.1  # a default must gain more than a machine's whims


class Steps(NamedTuple):
    """Steps that a model took for an output, of them those that verified a proposal, and the tokens they gave."""

    steps: int
    proposing: int
    tokens: int


def count_steps(prompt: list[int], output: list[int], proposed: int) -> Steps:
    """The steps to `output` where every one proposes what followed the last tokens when they stood there first."""
    text = prompt + output
    first: dict[tuple[int, ...], int] = {}  # n-gram to the place after it
    known, done, steps, proposing = 0, len(prompt), 0, 0
    while done < len(text):
        for end in range(known + 1, done):  # those that end before the last token
            for size in SIZES:
                if end >= size:
                    first.setdefault(tuple(text[end - size : end]), end)
        known = max(known, done - 1)
        found = (first.get(tuple(text[done - size : done])) for size in SIZES if done >= size)
        place = next((place for place in found if place is not None), None)
        accepted = 0
        if place is not None:
            proposing += 1
            proposal = text[place : min(place + proposed, done)]
            for guess, token in zip(proposal, text[done:], strict=False):
                if guess != token:
                    break
                accepted += 1
        steps += 1
        done = min(done + accepted + 1, len(text))
    return Steps(steps, proposing, len(output))


def write_echo_model(folder: Path) -> None:
    """A Llama that computes as much as any other of its size and repeats the last token: its layers add nothing."""
    import torch
    from transformers import LlamaForCausalLM

    write_random_model(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    model.save_pretrained(folder)


def run_one(settings: Result) -> Result:
    """Seconds of a step with `proposed` tokens (0: no speculation), for each size of batch."""
    from vllm import LLM, SamplingParams

    proposed = settings["proposed"]
    speculation = {
        "method": "ngram",
        "num_speculative_tokens": proposed,
        "prompt_lookup_max": SIZES[0],
        "prompt_lookup_min": SIZES[-1],
    }
    llm = LLM(
        settings["model"],
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=max(BATCHES),
        kv_cache_memory_bytes=2 << 30,
        enforce_eager=True,
        enable_chunked_prefill=False,
        speculative_config=speculation if proposed else None,
    )
    engine = llm.llm_engine
    sampling = SamplingParams(max_tokens=STEPS * (proposed + 1), temperature=0.0, ignore_eos=True)
    found: Result = {}
    for batch in BATCHES:
        for number in range(batch):
            prompt = [token + 10 for token in range(number, number + PROMPT_TOKENS)]
            engine.add_request(f"{batch}-{number}", {"prompt_token_ids": prompt}, sampling)
        seconds, gained, before = [], [], 0
        while engine.has_unfinished_requests():
            started = time.monotonic()
            outputs = engine.step()
            seconds.append(time.monotonic() - started)
            tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
            gained.append(tokens - before)
            before = tokens
        # All at work, with all that was proposed accepted: neither reading prompts nor ending.
        full = [one for one, tokens in zip(seconds, gained, strict=True) if tokens == batch * (proposed + 1)]
        found |= {f"seconds {batch}": median(full), f"steps {batch}": len(full)}
    return found


def compare(flags: argparse.Namespace) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_minilm())
    pairs = read_outputs(flags.data, CORRECTIONS)[: flags.rows]
    prompts = [aligner_prompt(pair["instruction"], pair["original_output"]) for pair in pairs]
    corrections = [pair["output"] for pair in pairs]
    ids = [tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (prompts, corrections)]
    accepted = {}
    for proposed in PROPOSED:
        each = [count_steps(prompt, output, proposed) for prompt, output in zip(*ids, strict=True)]
        accepted[proposed] = Steps(*(sum(counts) for counts in zip(*each, strict=True)))
    model = flags.cache / "llama-100m-echo"
    if not (model / "config.json").is_file():
        write_echo_model(model)
    run = partial(run_alone, "benchmarks.align", "--part", "speculation", model=str(model))
    costs = take_turns({str(proposed): partial(run, proposed=proposed) for proposed in (0, *PROPOSED)}, flags.runs)
    table, gains = [], {}
    for proposed, counts in accepted.items():
        share, rate = counts.proposing / counts.steps, counts.tokens / counts.steps
        cost = {
            batch: middle(costs[str(proposed)], f"seconds {batch}") / middle(costs["0"], f"seconds {batch}")
            for batch in BATCHES
        }
        for batch in BATCHES:
            gains[proposed, batch] = rate / (share * cost[batch] + 1 - share)
        table.append(
            [
                str(proposed),
                f"{rate:.2f}",
                f"{share:.0%}",
                *(f"{cost[batch]:.2f}" for batch in BATCHES),
                *(f"× {gains[proposed, batch]:.2f}" for batch in BATCHES),
            ]
        )
    headings = [
        "k",
        "tokens a step",
        "steps with a proposal",
        *(f"cost of a step, {batch} at work" for batch in BATCHES),
        *(f"tokens/s, {batch} at work" for batch in BATCHES),
    ]
    best = max(PROPOSED, key=lambda proposed: gains[proposed, BATCHES[-1]])
    gain = gains[best, BATCHES[-1]]
    after = (
        f"An offline corpus keeps the batch full, and there the best, k = {best}, gives × {gain:.2f}: "
        + (f"worth it (bar {PAYS})." if gain >= PAYS else f"not worth it (bar {PAYS}), so it is off unless asked for.")
        + " `engine: {args: {speculative_config: {method: ngram, …}}}` turns it on."
    )
    note = f"{__doc__}\n{len(pairs):,} corrections; costs are medians of {flags.runs} runs."
    record("Align, speculation", note, headings, table, after=after, write=flags.write)
