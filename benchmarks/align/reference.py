"""A squad of three as the code of paper 002 runs it, and as alignbeam does: rows per second, and whether texts agree.

    python -m benchmarks.align DATA --part reference --write

(reference) everything in memory; rows sorted by question and response, 64 at a time; MiniLM inspectors score all of
them in one padded batch; aligners take their turns by ascending mean score, and each rewrites what its own inspector
scores below 0.5, in one left-padded batch of `transformers`; all inspectors score all rows again. (alignbeam) the same
rows with `routing: paper-002`, Parquet in and out, one vLLM with three adapters; with `--variants` also with one thing
changed each: every row rewritten at every step (so its texts are others), one request at a time, n-gram speculation on,
inspectors in bfloat16.

Both sides: greedy, float32, at most 64 new tokens, stop at the first full stop (kept), repetition penalty 1.5; an
empty rewrite leaves the text as it was. The aligners are random LoRA adapters, merged into three models on the
reference's side, on the demo's trained teacher (tiny) and on a Llama of about 100 million random weights (100m); the
inspectors have heads of random weights, set so that about half of the responses score below 0.5. What they write is
nonsense: work and agreement are measured here, not quality. The 100m never says padding, which transformers' penalty
counts as said where a row was padded. Texts are cut so that a prompt has at most 512 tokens, the reference's limit.
Loading is left out of rows/s and stated. In few rows there is less to sort by length and to keep an engine busy with:
compare within a table.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.align.responses import read_responses, write_inspector
from benchmarks.generation import TEACHER, write_random_model
from benchmarks.processes import Result, middle, rates, run_alone, take_turns
from benchmarks.record import record
from transforms.training_data.aligner_format import aligner_prompt, read_correction

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CRITERIA = ("ethical", "factual", "helpful")
BATCH_ROWS, THRESHOLD = 64, 0.5
QUESTION_TOKENS, RESPONSE_TOKENS = 128, 352  # with the separators, less than 512
MAX_NEW_TOKENS, STOP, REPETITION_PENALTY = 64, ".", 1.5
SAMPLE_ROWS = 256
ENGINE_ARGS = {"dtype": "float32", "max_model_len": 1024}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "alignbeam": {},
    "without gating": {"every_row": True},
    "without batching": {"max_num_seqs": 1},
    "with speculation": {"speculative_config": NGRAM},
    "with bfloat16": {"bf16": True},
}
BARS = {"rate": 3.0, "equal": 0.99}
EXPLAINED = "Align, reference (tiny)"


def write_adapter(folder: Path, base: Path, seed: int) -> None:
    """A LoRA adapter of random weights: it changes what the base writes, and leaves it a language model of sorts."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    lora = LoraConfig(r=8, lora_alpha=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    get_peft_model(model, lora).save_pretrained(folder)


def write_squad(folder: Path, base: Path, corpus: pa.Table) -> None:
    """Inspectors and adapters of every criterion, and the squad file."""
    members = []
    for seed, criterion in enumerate(CRITERIA):
        write_inspector(folder / criterion / "inspector", seed, corpus.slice(0, SAMPLE_ROWS))
        write_adapter(folder / criterion / "adapter", base, seed)
        members.append(
            {"criterion": criterion, "inspector": f"{criterion}/inspector", "aligner": f"{criterion}/adapter"}
        )
    (folder / "squad.yaml").write_text(yaml.safe_dump({"routing": "paper-002", "members": members}))


def cut(corpus: pa.Table, base: Path) -> pa.Table:
    """The corpus with texts of no more tokens than a prompt has room for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    for name, tokens in (("question", QUESTION_TOKENS), ("response", RESPONSE_TOKENS)):
        texts = corpus[name].to_pylist()
        places = tokenizer(texts, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        ends = [place[:tokens][-1][1] for place in places]
        short = pa.array([text[:end] for text, end in zip(texts, ends, strict=True)])
        corpus = corpus.set_column(corpus.schema.get_field_index(name), name, short)
    return corpus


class Aligner:
    """An adapter merged into its base, as transformers runs it."""

    def __init__(self, folder: Path):
        import torch
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoTokenizer

        adapted = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        base = adapted.peft_config["default"].base_model_name_or_path
        self.model: PreTrainedModel = adapted.merge_and_unload().eval()
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base, padding_side="left")

    def rewrite(self, questions: list[str], texts: list[str]) -> list[str]:
        import torch

        prompts = [aligner_prompt(*pair) for pair in zip(questions, texts, strict=True)]
        inputs = self.tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            tokens_BT = self.model.generate(
                **inputs,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                repetition_penalty=REPETITION_PENALTY,
                stop_strings=[STOP],
                tokenizer=self.tokenizer,
            )
        new_BT = tokens_BT[:, inputs["input_ids"].shape[1] :]
        written = self.tokenizer.batch_decode(new_BT, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # Tokens may go on after the full stop.
        return [read_correction("".join(text.partition(STOP)[:2])) for text in written]


class Scorer:
    """An inspector as transformers runs it: one padded batch."""

    def __init__(self, folder: Path):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def score(self, questions: list[str], texts: list[str]) -> np.ndarray:
        import torch

        inputs = self.tokenizer(
            questions, texts, padding=True, truncation="longest_first", max_length=512, return_tensors="pt"
        )
        with torch.inference_mode():
            return self.model(**inputs).logits.softmax(-1)[:, 1].numpy()


def align_batch(questions: list[str], texts: list[str], scorers: list[Scorer], aligners: list[Aligner]) -> list[str]:
    """One batch of the reference: the order of the aligners is that of the first scores, lowest mean first."""
    texts = texts.copy()
    scores_NM = np.stack([scorer.score(questions, texts) for scorer in scorers], axis=1)
    for member in np.argsort(scores_NM.mean(axis=0), kind="stable"):
        rows = np.flatnonzero(scores_NM[:, member] < THRESHOLD).tolist()
        if rows:
            rewrites = aligners[member].rewrite([questions[row] for row in rows], [texts[row] for row in rows])
            for row, rewrite in zip(rows, rewrites, strict=True):
                texts[row] = rewrite or texts[row]
        scores_NM = np.stack([scorer.score(questions, texts) for scorer in scorers], axis=1)
    return texts


def run_reference(squad: str, corpus: str, output: str) -> Result:
    started = time.monotonic()
    folder = Path(squad).parent
    scorers = [Scorer(folder / criterion / "inspector") for criterion in CRITERIA]
    aligners = [Aligner(folder / criterion / "adapter") for criterion in CRITERIA]
    loaded = time.monotonic()
    rows = sorted(pq.read_table(corpus).to_pylist(), key=lambda row: (row["question"], row["response"]))
    aligned: list[str] = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        questions, texts = ([row[name] for row in batch] for name in ("question", "response"))
        aligned += align_batch(questions, texts, scorers, aligners)
    ended = time.monotonic()
    columns = {"row": [row["row"] for row in rows], "aligned": aligned}
    pq.write_table(pa.table(columns).sort_by("row"), output)
    return {"load_seconds": loaded - started, "seconds": ended - loaded}


def run_alignbeam(
    squad: str, corpus: str, output: str, *, every_row: bool = False, bf16: bool = False, **engine_args: Any
) -> Result:
    from pipelines.commands import align
    from transforms.alignment.members import members_of
    from transforms.engines.engine import Sampling
    from transforms.engines.inspector import open_inspector
    from transforms.engines.running import open_engine

    sampling = Sampling(
        max_tokens=MAX_NEW_TOKENS,
        stop=(STOP,),
        repetition_penalty=REPETITION_PENALTY,
        extra={"include_stop_str_in_output": True},
    )
    with tempfile.TemporaryDirectory(prefix="alignbeam-align-") as folder:
        config = align.Config(
            corpus=corpus,
            output=folder,
            squad=squad,
            every_row=every_row,
            bf16=bf16,
            sampling=sampling,
            engine={"args": ENGINE_ARGS | engine_args},
        )
        started = time.monotonic()
        aligning = align.plan_steps(config, align.find_squad(config))[-1]
        for member in members_of(aligning.config.members, align.models_of(aligning), sampling):
            open_engine(member.model.engine)
            open_inspector(member.inspector, bf16)
        loaded = time.monotonic()
        stage = align.align_corpus(config)[-1]
        ended = time.monotonic()
        aligned = stage.table("aligned").to_arrow(["row", "aligned"])
        pq.write_table(aligned.sort_by("row"), output)
    return {"load_seconds": loaded - started, "seconds": ended - loaded}


def run_one(settings: Result) -> Result:
    return run_reference(**settings) if settings.pop("reference") else run_alignbeam(**settings)


def compare_model(name: str, flags: argparse.Namespace) -> None:
    base = TEACHER if name == "tiny" else flags.cache / "llama-100m-plain"
    if not (base / "config.json").is_file():
        write_random_model(base, plain=True)
    with tempfile.TemporaryDirectory(prefix="alignbeam-reference-") as scratch:
        responses = cut(read_responses(flags.data, flags.rows), base)
        corpus = Path(scratch, "corpus.parquet")
        pq.write_table(responses, corpus)
        write_squad(Path(scratch), base, responses)
        run = partial(
            run_alone, "benchmarks.align", "--part", "reference", squad=f"{scratch}/squad.yaml", corpus=str(corpus)
        )
        variants = VARIANTS if flags.variants else {"alignbeam": VARIANTS["alignbeam"]}
        files = {variant: f"{scratch}/{variant}.parquet" for variant in ("reference", *variants)}
        runs = {"reference": partial(run, reference=True, output=files["reference"])}
        for variant, changed in variants.items():
            runs[variant] = partial(run, reference=False, output=files[variant], **changed)
        measured = take_turns(runs, flags.runs)
        texts = {variant: np.array(pq.read_table(file)["aligned"].to_pylist()) for variant, file in files.items()}
    given_texts = np.array([text.strip() for text in responses["response"].to_pylist()])
    changed_rows = {variant: np.char.strip(found) != given_texts for variant, found in texts.items()}
    table = []
    for variant, results in measured.items():
        ratio = middle(measured["reference"], "seconds") / middle(results, "seconds")
        both = changed_rows[variant] & changed_rows["reference"]
        equal = (texts[variant] == texts["reference"])[both].mean() if both.any() else 0
        is_main = variant == "alignbeam" and not flags.variants
        table.append(
            [
                variant,
                rates(results, len(responses)),
                f"{ratio:.2f}" + (f" ({bar(ratio, BARS['rate'])})" if is_main else ""),
                f"{changed_rows[variant].mean():.0%}",
                f"{equal:.2%}" + (f" ({bar(equal, BARS['equal'])})" if is_main else ""),
                f"{middle(results, 'load_seconds'):.1f}",
            ]
        )
    headings = [
        "",
        "rows/s (lowest–highest)",
        "× reference",
        "rows rewritten",
        "same text, of those that both rewrote",
        "load s",
    ]
    times = "one run" if flags.runs == 1 else f"medians of {flags.runs} runs"
    title = f"Align, {'variants' if flags.variants else 'reference'} ({name})"
    about = __doc__ if title == EXPLAINED else f"The ways are explained in *{EXPLAINED}*.\n"
    note = f"{about}\n{len(responses):,} responses of four systems to AlpacaEval, {times}."
    record(title, note, headings, table, write=flags.write)


def bar(value: float, least: float) -> str:
    return f"bar {least:g}: {'met' if value >= least else 'MISSED'}"


def compare(flags: argparse.Namespace) -> None:
    for name in flags.models:
        compare_model(name, flags)
