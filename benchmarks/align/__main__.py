"""Align: against the way of the reference code, with and without what makes it fast, and what its pipeline costs.

    python -m benchmarks.align DATA --write
    python -m benchmarks.align DATA --part reference --models tiny --rows 64 --variants --write
    python -m benchmarks.align --part scale --flink-jar JAR --flink-master localhost:8081 --write

DATA is a folder with `alpaca_eval/outputs/`; `scale` needs none. What is compared takes turns, each run is a process
of its own, and medians count. Each part is a module here, whose head says what it measures:

    reference    rows per second and texts beside a squad run as paper 002's code runs it
    speculation  what n-gram speculation gains on real corrections, and what it costs
    inspect      scoring beside bare loops, and bfloat16 beside float32
    scale        rows per second, cost a row and memory with scripted models, by size and by runner
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from benchmarks.align import inspection, reference, scale, speculation

PARTS = {"reference": reference, "speculation": speculation, "inspect": inspection, "scale": scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder with alpaca_eval/outputs")
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS, help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, of which the median counts (default 3)")
    parser.add_argument("--rows", type=int, help="of the real responses (default: all 3,220)")
    parser.add_argument("--models", nargs="+", default=["tiny", "100m"], choices=["tiny", "100m"], help="(reference)")
    parser.add_argument("--variants", action="store_true", help="with one thing changed each (reference)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="rows (scale)")
    parser.add_argument("--runner-rows", type=int, default=200_000, help="rows on other runners (scale)")
    parser.add_argument("--flink-jar", help="Beam's job server for Flink (scale)")
    parser.add_argument("--flink-master", help="host:port of a cluster with 2 slots on this machine (scale)")
    parser.add_argument("--flink-pool", help="host:port of the worker pool beside each of its task managers (scale)")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "alignbeam-random-models", help="of random models"
    )
    parser.add_argument("--write", action="store_true", help="write the tables to docs/benchmarks.md")
    parser.add_argument("--run", nargs=2, metavar=("SETTINGS", "RESULT"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # read when transformers is imported
    if flags.run:
        settings, result = flags.run
        Path(result).write_text(json.dumps(PARTS[flags.part[0]].run_one(json.loads(settings))))
        return
    if flags.data is None and flags.part != ["scale"]:
        parser.error("DATA: the folder with alpaca_eval/outputs is missing; only --part scale needs none")
    for part in flags.part:
        PARTS[part].compare(flags)


if __name__ == "__main__":
    main()
