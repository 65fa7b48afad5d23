"""What the pipeline of `align` costs a row: scripted models that cost next to nothing, about 90 words a row, 8 shards.

    python -m benchmarks.align --part scale --write

Three corpora: (gated) 5 % of the rows fall below the threshold, and all of these are rewritten; (half) half of the rows
are asked about, and a tenth of the rewrites passes the guard; (all) every row is asked about and rewritten. Seconds are
those of the whole command once its programs are loaded, import of the corpus included; µs a row are less the seconds
that 80 rows take. Memory is the peak of the process and of the largest that it started.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import scripted
from benchmarks.processes import Result, middle, peak_mb, rates, run_alone, take_turns
from benchmarks.record import record
from pipelines.commands import align

SHARDS = 8
START_ROWS = 80  # hardly more than what every run costs
RUNNER_ROWS = 200_000
QUESTION_CHARACTERS, RESPONSE_CHARACTERS = 80, 400
ENGINE = {"engine": "scripted", "args": {"function": "benchmarks.scripted:rewrite"}}
BARS = {"rate": 20_000, "cost": 1.15, "memory": 1.2, "runner": 0.8}


@dataclass(frozen=True)
class Workload:
    """Shares of the rows that fall below the threshold, and of their rewrites that are better."""

    below: float
    better: float


WORKLOADS = {"gated": Workload(0.05, 1.0), "half": Workload(0.5, 0.1), "all": Workload(1.0, 1.0)}


def write_corpus(folder: Path, rows: int, workload: Workload) -> None:
    """Shards of questions, all different, and responses, with the marks that the scripted models read."""
    rng = np.random.default_rng(0)
    words = rng.choice(["".join(rng.choice(list("aeioubdfklmnprst"), 4)) for _ in range(5_000)], 20_000)
    text = " ".join(words.tolist())
    places = rng.integers(len(text) - RESPONSE_CHARACTERS, size=(rows, 2)).tolist()
    bad, better = (rng.random((2, rows)) < [[workload.below], [workload.better]]).tolist()
    marks = {True: scripted.GOOD, False: scripted.BAD}
    folder.mkdir(parents=True)
    for shard, part in enumerate(np.array_split(np.arange(rows), SHARDS)):
        numbers = part.tolist()
        columns = {
            "question": [
                f"{marks[better[n]]} {n} {text[places[n][0] : places[n][0] + QUESTION_CHARACTERS]}" for n in numbers
            ],
            "response": [
                f"{marks[not bad[n]]} {text[places[n][1] : places[n][1] + RESPONSE_CHARACTERS]}" for n in numbers
            ],
        }
        pq.write_table(pa.table(columns), folder / f"part-{shard}.parquet")


def run_align(corpus: str, output: str, beam_arguments: list[str]) -> Result:
    config = align.Config(
        corpus=corpus,
        output=output,
        aligner=("scripted",),
        inspector=("scripted:benchmarks.scripted:inspect",),
        criterion=("marks",),
        engine=ENGINE,
    )
    started = time.monotonic()
    stage = align.align_corpus(config, beam_arguments)[-1]
    seconds = time.monotonic() - started
    decisions = stage.table("aligned").to_arrow(["decision"])["decision"].value_counts().to_pylist()
    counts = {entry["values"]: entry["counts"] for entry in decisions}
    return {"seconds": seconds, "peak_mb": peak_mb(), "decisions": counts}


def run_one(settings: Result) -> Result:
    with tempfile.TemporaryDirectory(prefix="alignbeam-scale-") as output:
        return run_align(output=output, **settings)


def runners(flags: argparse.Namespace) -> dict[str, list[str]]:
    """Beam's arguments by the runner's name; Flink where its jar, and a cluster where its address, is given."""
    found = {"local, 2 workers": ["--direct_num_workers=2"]}
    if flags.flink_jar:
        flink = ["--runner=FlinkRunner", f"--flink_job_server_jar={flags.flink_jar}", "--parallelism=2"]
        found["Flink in process"] = [*flink, "--environment_type=LOOPBACK"]
        if flags.flink_master:
            cluster = [f"--flink_master={flags.flink_master}", "--flink_submit_uber_jar"]
            workers = ["--environment_type=EXTERNAL", f"--environment_config={flags.flink_pool}"]
            found["Flink cluster, 2 slots"] = [*flink, *cluster, *workers]
    return found


def compare(flags: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="alignbeam-corpora-") as scratch:

        def corpus(rows: int, name: str) -> str:
            folder = Path(scratch, f"{name}-{rows}")
            if not folder.exists():
                write_corpus(folder, rows, WORKLOADS[name])
            return str(folder)

        def alone(rows: int, name: str, *arguments: str) -> Result:
            return run_alone(
                "benchmarks.align", "--part", "scale", corpus=corpus(rows, name), beam_arguments=list(arguments)
            )

        sizes = {
            f"{name} {rows}": partial(alone, rows, name) for rows in (START_ROWS, *flags.sizes) for name in WORKLOADS
        }
        by_size = take_turns(sizes, flags.runs)
        by_runner = take_turns(
            {
                f"{name} {rows}": partial(alone, rows, "half", *extra)
                for name, extra in runners(flags).items()
                for rows in (START_ROWS, flags.runner_rows)
            },
            flags.runs,
        )
    table = [
        size_row(name, rows, smaller, by_size)
        for smaller, rows in zip((None, *flags.sizes), flags.sizes, strict=False)
        for name in WORKLOADS
    ]
    note = (
        f"{__doc__}\nMedians of {flags.runs} runs. Bars at 1,000,000 rows: {BARS['rate']:,} rows/s, "
        f"{BARS['cost']} times the cost a row at 10,000, {BARS['memory']} times the memory at 100,000."
    )
    headings = ["corpus", "rows", "rows/s (lowest–highest)", "µs a row", "peak MB", "× the size before"]
    record("Align, scale", note, headings, table, write=flags.write)
    names = list(runners(flags))
    start = {name: middle(by_runner[f"{name} {START_ROWS}"], "seconds") for name in names}
    net = {name: middle(by_runner[f"{name} {flags.runner_rows}"], "seconds") - start[name] for name in names}
    table = [
        [
            name,
            rates(by_runner[f"{name} {flags.runner_rows}"], flags.runner_rows),
            f"{start[name]:.1f} s",
            f"{net[names[0]] / net[name]:.2f}",
            f"{middle(by_runner[f'{name} {flags.runner_rows}'], 'peak_mb'):,.0f}",
        ]
        for name in names
    ]
    note = (
        f"Corpus (half) of the scale benchmark, {flags.runner_rows:,} rows; start-up is what {START_ROWS} rows take. "
        f"Medians of {flags.runs} runs. Bar: {BARS['runner']} times the local runner on the cluster."
    )
    headings = ["runner", "rows/s (lowest–highest)", "start-up", "× local, start-up apart", "peak MB"]
    record("Align, runners", note, headings, table, write=flags.write)


def size_row(name: str, rows: int, smaller: int | None, measured: dict[str, list[Result]]) -> list[str]:
    """What a corpus of this size costs, beside the one before it."""

    def cost(rows: int) -> float:
        seconds, start = (middle(measured[f"{name} {count}"], "seconds") for count in (rows, START_ROWS))
        return (seconds - start) / rows

    found = measured[f"{name} {rows}"]
    peak = middle(found, "peak_mb")
    beside = ""
    if smaller:
        before = middle(measured[f"{name} {smaller}"], "peak_mb")
        beside = f"cost {cost(rows) / cost(smaller):.2f}, memory {peak / before:.2f}"
    return [name, f"{rows:,}", rates(found, rows), f"{1e6 * cost(rows):.1f}", f"{peak:,.0f}", beside]
