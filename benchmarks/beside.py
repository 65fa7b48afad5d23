"""Another checkout beside this one: the same work by both, each run a process of its own, the two taking turns.

    python -m benchmarks.beside ../before --runs 5 --write

For a change that should leave speed as it is. Both checkouts run with this Python and its packages, on the same made
corpora: `align` over the three corpora of benchmarks.align's scale part, near-duplicates and the whole of `curate` as
in benchmarks.dedup, generation with the tiny model as in benchmarks.generation. What counts is the median, over the
turns, of this checkout's rate by the other's in the same turn.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import dedup, generation
from benchmarks.align import scale
from benchmarks.record import record

HERE = Path(__file__).resolve().parent.parent
BAR = 0.95  # of the other checkout's rate

Run = Callable[[Path, Path], float]  # from a checkout and an empty folder: seconds


def python(checkout: Path, *arguments: str) -> str:
    """Run this Python on a checkout's packages; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def align(corpus: Path, checkout: Path, folder: Path) -> float:
    settings = json.dumps({"corpus": str(corpus), "beam_arguments": []})
    python(checkout, "benchmarks.align", "--part", "scale", "--run", settings, str(folder / "result.json"))
    return json.loads((folder / "result.json").read_text())["seconds"]


def deduplicate(tool: str, corpus: Path, checkout: Path, folder: Path) -> float:
    printed = python(checkout, "benchmarks.dedup", "--run", tool, str(corpus), str(folder / "output"))
    return json.loads(printed.splitlines()[-1])["seconds"]


def generate(prompts: Path, checkout: Path, folder: Path) -> float:
    (folder / "prompts.parquet").symlink_to(prompts)
    teacher = checkout / generation.TEACHER.relative_to(HERE)  # by its path a checkout knows what ends its texts
    python(checkout, "benchmarks.generation", "--variant", "b", str(teacher), str(folder))
    return json.loads((folder / "result.json").read_text())["seconds"]


def prepare(scratch: Path, rows: int, prompts: int) -> dict[str, tuple[int, Run]]:
    """Make the corpora; return the rows and the run of each work, by name."""
    work: dict[str, tuple[int, Run]] = {}
    for name, workload in scale.WORKLOADS.items():
        scale.write_corpus(scratch / name, rows, workload)
        work[f"align, {name}"] = rows, partial(align, scratch / name)
    dedup.write_held_out(scratch / "held_out.parquet")
    dedup.write_corpus(scratch / "records", rows)
    for tool in ("near", "curate"):
        work[f"dedup, {tool}"] = rows, partial(deduplicate, tool, scratch / "records")
    generation.write_prompts(scratch / "prompts.parquet", prompts, generation.TRIPLES_OF_TEN["tiny"])
    work["generation, tiny"] = prompts, partial(generate, scratch / "prompts.parquet")
    return work


def take_turns(run: Run, other: Path, runs: int) -> tuple[list[float], list[float]]:
    """Return the seconds of the other checkout and of this one, by turn; each time another one goes first."""
    seconds: dict[Path, list[float]] = {other: [], HERE: []}
    for turn in range(runs):
        for checkout in (other, HERE) if turn % 2 == 0 else (HERE, other):
            with tempfile.TemporaryDirectory(prefix="alignbeam-beside-") as folder:
                seconds[checkout].append(run(checkout, Path(folder)))
    return seconds[other], seconds[HERE]


def commit_of(checkout: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--rows", type=int, default=200_000, help="of align and dedup (default 200,000)")
    parser.add_argument("--prompts", type=int, default=1_000, help="of generation (default 1,000)")
    parser.add_argument("--runs", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--work", nargs="+", metavar="NAME", help="only these, such as 'align, gated'")
    parser.add_argument("--write", action="store_true", help="write the table to docs/benchmarks.md")
    flags = parser.parse_args()
    other = flags.other.resolve()
    table = []
    with tempfile.TemporaryDirectory(prefix="alignbeam-beside-corpora-") as scratch:
        for name, (rows, run) in prepare(Path(scratch), flags.rows, flags.prompts).items():
            if flags.work and name not in flags.work:
                continue
            before, after = take_turns(run, other, flags.runs)
            ratios = [old / new for old, new in zip(before, after, strict=True)]
            ratio = median(ratios)
            shown = f"{ratio:.2f}" if ratio >= BAR else f"**{ratio:.2f}**"
            table.append(
                [
                    name,
                    f"{rows:,}",
                    f"{rows / median(before):,.1f}",
                    f"{rows / median(after):,.1f}",
                    f"{shown} ({min(ratios):.2f}–{max(ratios):.2f})",
                ]
            )
            print(*table[-1], sep="  ", flush=True)
    commits = f"before: {commit_of(other)}, after: {commit_of(HERE)}"
    note = f"{__doc__}\n{flags.runs} turns; {commits}. Bar: {BAR} of the rate before."
    headings = ["work", "rows", "before, rows/s", "after, rows/s", "after / before (lowest–highest turn)"]
    record("Before and after", note, headings, table, write=flags.write)


if __name__ == "__main__":
    main()
