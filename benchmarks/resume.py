"""What it costs to go on with a stage whose response cache is large: the driver's start, and a worker's memory.

    python -m benchmarks.resume --completions 10000000 --write

The completions are made up. Each figure is of a process of its own: the first index over segments as workers leave
them, a start with nothing new, a start after a few more were written, and a worker that opens the cache and looks
answers up.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.record import record
from transforms.generation.cache_index import BATCH_ROWS, SEGMENT_SCHEMA, write_segment
from transforms.generation.response_cache import compact_and_index, open_cache

SEGMENT_ROWS = 100_000
LOOKUPS = 20_000
TEXT = "An answer of about a hundred characters, such as an aligner gives to a short question, number "


def keys_of(segment: int, rows: int) -> np.ndarray:
    """The keys of a segment, 16 bytes each, as they would be: uniformly random, and the same every time."""
    return np.random.default_rng(segment).integers(0, 256, (rows, 16), np.uint8)


def write_completions(directory: Path, segment: int, rows: int) -> None:
    keys = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(keys_of(segment, rows))])
    texts = pa.array([f"{TEXT}{segment * SEGMENT_ROWS + row}" for row in range(rows)])
    columns = [
        keys,
        texts,
        pa.nulls(rows, pa.string()),
        pa.array(["stop"] * rows),
        *[pa.array([24] * rows, pa.int32())] * 2,
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=SEGMENT_SCHEMA)
    pieces = [batch.slice(start, BATCH_ROWS) for start in range(0, rows, BATCH_ROWS)]
    write_segment(str(directory / f"{segment:020d}-made.arrow"), pieces)


def start(directory: str) -> None:
    """What a driver does as a stage starts."""
    begun = time.perf_counter()
    count = compact_and_index(directory)
    print(f"{time.perf_counter() - begun} {count}")


def work(directory: str, segments: int) -> None:
    """What a worker does: open, and look answers up that lie all over."""
    before = memory_mb("RssAnon")
    begun = time.perf_counter()
    cache = open_cache(directory)
    opened = time.perf_counter() - begun
    found = 0
    for segment in range(0, segments, max(1, segments // 100)):
        keys = [key.tobytes() for key in keys_of(segment, SEGMENT_ROWS)[: LOOKUPS // 100]]
        found += sum(one is not None for one in cache.lookup(keys))
    print(f"{opened} {found} {memory_mb('RssAnon') - before} {memory_mb('RssFile')}")


def memory_mb(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:")) / 1024


def in_process(step: str, *arguments: str | Path) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.resume", "--step", step, *map(str, arguments)]
    return [float(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--completions", type=int, default=10_000_000)
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.step:
        name, directory, *more = flags.step
        return start(directory) if name == "start" else work(directory, int(more[0]))
    segments = flags.completions // SEGMENT_ROWS
    with tempfile.TemporaryDirectory() as folder:
        for segment in range(segments):
            write_completions(Path(folder), segment, SEGMENT_ROWS)
        size_mb = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
        first, _ = in_process("start", folder)
        again, count = in_process("start", folder)
        write_completions(Path(folder), segments, 1000)
        grown, _ = in_process("start", folder)
        opened, found, anonymous, mapped = in_process("work", folder, str(segments))
    rows = [
        ["driver, first index of all segments", f"{first:.1f} s"],
        ["driver, nothing new", f"{again:.2f} s"],
        ["driver, 1,000 completions more", f"{grown:.1f} s"],
        [f"worker, open and look up {found:,.0f}", f"{opened:.2f} s to open"],
        ["worker's own memory for it", f"{anonymous:.0f} MB"],
        ["file pages mapped in the worker, which the system may drop", f"{mapped:.0f} MB"],
    ]
    note = f"{count:,.0f} completions in {segments} segments, {size_mb:,.0f} MB on disk (benchmarks/resume.py)."
    if flags.write:
        record("Going on with a large response cache", note, ["", "measured"], rows)
    else:
        print(note, *rows, sep="\n")


if __name__ == "__main__":
    main()
