"""Near-duplicates and the whole of curate: records per second, what is found, and memory; with other tools beside it.

    python -m benchmarks.dedup --rows 10000 100000 1000000 --others 200000 --write

The corpus is made: questions with answers, about 55 words of a made-up vocabulary whose frequencies fall as those of a
language do; three rows in ten repeat another with one or two words replaced. Every run is a process of its own that
reads Parquet and writes Parquet, and everything between is counted; programs load first. Near-duplicates: word 3-grams,
Jaccard 0.7; for the others 25 bands of 5, on the same two cores. The truth is the same greedy rule (by id, a row near
to one that stays goes) over exact similarities: of all pairs up to 100,000 rows, within the planted groups above.

(near) alignbeam's near-duplicate step between reading and writing, (curate) the default `alignbeam curate` with 5,000
held-out questions, (datasketch) MinHashLSH with each match asked of the index, then insertion, (datatrove) its four
steps in two processes, with its tokenizer for English, spaCy's, and with words parted by spaces.
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import record

VOCABULARY, WORDS, QUESTION_WORDS = 20_000, (40, 70), 12
REPEATED, MAX_REPLACED = 0.3, 2
JACCARD, NGRAM = 0.7, 3
BANDS, ROWS = 25, 5
SHARD_ROWS = 125_000
HELD_OUT = 5_000
ALL_PAIRS_UP_TO = 100_000
BARS = {"near": 100_000, "curate": 50_000, "datatrove": 20, "datasketch": 10}


def write_corpus(folder: Path, rows: int) -> None:
    """Shards with id, question and response. A file beside them says for every row which original it is or repeats."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnoprstuvw"))
    words = {"".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(VOCABULARY)}
    vocabulary = np.array(sorted(words), object)
    rng.shuffle(vocabulary)
    share = np.cumsum(1 / np.arange(1, len(vocabulary) + 1) ** 0.8)
    originals = round(rows * (1 - REPEATED))
    ends = np.cumsum(rng.integers(*WORDS, originals))
    drawn = np.searchsorted(share, rng.random(ends[-1]) * share[-1])
    texts = np.split(drawn, ends[:-1])
    groups = np.concatenate([np.arange(originals), rng.integers(originals, size=rows - originals)])
    for original in groups[originals:]:
        text = texts[original].copy()
        places = rng.choice(len(text), rng.integers(1, MAX_REPLACED + 1), replace=False)
        text[places] = rng.integers(len(vocabulary), size=len(places))
        texts.append(text)
    order = rng.permutation(rows)
    folder.mkdir(parents=True)
    np.save(folder.with_suffix(".npy"), groups[order])
    for start in range(0, rows, SHARD_ROWS):
        found = [vocabulary[texts[row]].tolist() for row in order[start : start + SHARD_ROWS]]
        columns = {
            "id": [f"{row:08d}" for row in range(start, start + len(found))],
            "question": [" ".join(text[:QUESTION_WORDS]).capitalize() + "?" for text in found],
            "response": [" ".join(text[QUESTION_WORDS:]).capitalize() + "." for text in found],
        }
        pq.write_table(pa.table(columns), folder / f"part-{start // SHARD_ROWS:03d}.parquet")


def write_held_out(path: Path) -> None:
    rng = np.random.default_rng(1)
    questions = [" ".join(f"w{number}" for number in rng.integers(100_000, size=12)) for _ in range(HELD_OUT)]
    pq.write_table(pa.table({"question": questions}), path)


def shingle_sets(corpus: Path, rows: np.ndarray) -> list[set[int]]:
    """The 3-grams of these rows, a boundary between question and response; made apart from alignbeam's code."""
    table = pq.read_table(corpus, columns=["question", "response"]).take(pa.array(rows))
    found = []
    for question, response in zip(*(column.to_pylist() for column in table.columns), strict=True):
        words = [*re.findall("[a-z]+", question.lower()), "|", *re.findall("[a-z]+", response.lower())]
        found.append({hash(tuple(words[place : place + NGRAM])) for place in range(len(words) - NGRAM + 1)})
    return found


def true_removals(corpus: Path) -> set[int]:
    """The rows that go: in the order of their ids, each that is near to one that stays."""
    groups = np.load(corpus.with_suffix(".npy"))
    near: dict[int, list[int]] = {}
    for left, right in near_pairs(corpus, groups) if len(groups) <= ALL_PAIRS_UP_TO else planted_pairs(corpus, groups):
        near.setdefault(max(left, right), []).append(min(left, right))
    gone: set[int] = set()
    for row in sorted(near):
        if any(other not in gone for other in near[row]):
            gone.add(row)
    return gone


def near_pairs(corpus: Path, groups: np.ndarray) -> list[tuple[int, int]]:
    """All pairs (left, right) that reach the similarity, from the numbers of shared 3-grams of all pairs of rows."""
    from scipy.sparse import csr_array

    sets = shingle_sets(corpus, np.arange(len(groups)))
    sizes = np.array([len(one) for one in sets])
    _, columns = np.unique(np.fromiter((gram for one in sets for gram in one), np.int64), return_inverse=True)
    rows = np.repeat(np.arange(len(sets)), sizes)
    holds = csr_array((np.ones(len(rows), np.int32), (rows, columns)))
    found = []
    for start in range(0, len(sets), 2_000):
        shared = (holds[start : start + 2_000] @ holds.T).tocoo()
        left, right = shared.coords[0] + start, shared.coords[1]
        is_near = shared.data >= JACCARD * (sizes[left] + sizes[right] - shared.data) - 1e-9
        is_near &= left < right
        found += list(zip(left[is_near].tolist(), right[is_near].tolist(), strict=True))
    return found


def planted_pairs(corpus: Path, groups: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of one group that reach the similarity."""
    rows = np.flatnonzero(np.bincount(groups)[groups] > 1)
    sets = dict(zip(rows.tolist(), shingle_sets(corpus, rows), strict=True))
    members: dict[int, list[int]] = {}
    for row in rows.tolist():
        members.setdefault(groups[row], []).append(row)
    pairs = ((left, right) for found in members.values() for left in found for right in found if left < right)
    return [
        (left, right)
        for left, right in pairs
        if len(sets[left] & sets[right]) >= JACCARD * len(sets[left] | sets[right]) - 1e-9
    ]


def run_near(corpus: Path, output: Path) -> Callable[[], None]:
    import apache_beam as beam

    from pipelines.runtime.beam import on_all_processors, run_pipeline
    from transforms.curation.decisions import OpenShards
    from transforms.curation.duplicates import DropDuplicates
    from transforms.tables.chunks import HASHED_ROWS, Keyed
    from transforms.tables.read import ReadTable
    from transforms.tables.table import read_table
    from transforms.tables.write import SplitMarks, WriteTables
    from transforms.texts.near_duplicates import Similarity

    columns = ("question", "response")

    def build(root: beam.Pipeline) -> object:
        table = read_table(str(corpus / "*.parquet")).head(None)
        marks = [(name, pa.string()) for name in ("drop_reason", "duplicate_of")]
        schemas = {"rows": table.schema, "drops": pa.schema([*table.schema, *marks])}
        chunks = root | ReadTable(table, list(columns), chunk_rows=HASHED_ROWS)
        nothing = root | beam.Create([]).with_output_types(Keyed)
        return (
            (chunks, nothing)
            | DropDuplicates(table, columns, Similarity(words=NGRAM, jaccard=JACCARD))
            | OpenShards(table, "rows")
            | WriteTables(str(output), schemas, SplitMarks("rows"), table.targets, {})
        )

    return lambda: run_pipeline(build, on_all_processors(()))


def run_curate(corpus: Path, output: Path) -> Callable[[], None]:
    from pipelines import curate
    from pipelines.runtime.runs import Record
    from pipelines.runtime.step import Place, PlannedStep
    from pipelines.runtime.steps import alone, do_steps
    from transforms.texts.near_duplicates import Similarity

    config = curate.Config(
        table=str(corpus / "*.parquet"),
        similarity=Similarity(words=NGRAM, jaccard=JACCARD),
        heldout_files=(str(corpus.parent / "held_out.parquet"),),
    )

    def run() -> None:
        do_steps([alone(PlannedStep("curate", curate.KIND, config))], Record(str(output)), Place(str(output)))

    return run


def run_datasketch(corpus: Path, output: Path) -> Callable[[], None]:
    from datasketch import MinHash, MinHashLSH

    def remove() -> None:
        table = pq.read_table(corpus)
        index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        kept = []
        for row, text in enumerate(texts_of(table)):
            words = text.split()
            signature = MinHash(num_perm=BANDS * ROWS)
            grams = {" ".join(words[place : place + NGRAM]) for place in range(max(1, len(words) - NGRAM + 1))}
            signature.update_batch([gram.encode() for gram in grams])
            kept.append(not index.query(signature))
            if kept[-1]:
                index.insert(row, signature)
        pq.write_table(table.filter(pa.array(kept)), output)

    return remove


def texts_of(table: pa.Table) -> list[str]:
    columns = [table[name].to_pylist() for name in ("question", "response")]
    return [f"{question} {response}".lower() for question, response in zip(*columns, strict=True)]


def run_datatrove(corpus: Path, output: Path, *, by_spaces: bool = False) -> Callable[[], None]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.typeshelper import Languages
    from datatrove.utils.word_tokenizers import WordTokenizer

    class BySpaces(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    language = BySpaces() if by_spaces else Languages.english
    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    parts = output / "parts"

    def remove() -> None:
        table = pq.read_table(corpus)  # it wants one text column, and a file for each process
        texts = pa.table({"id": table["id"], "text": texts_of(table)})
        parts.mkdir(parents=True)
        for part in range(2):
            half = -(-len(texts) // 2)
            pq.write_table(texts.slice(part * half, half), parts / f"{part}.parquet")
        signing = [
            ParquetReader(str(parts)),
            MinhashDedupSignature(str(output / "signatures"), config, language=language),
        ]
        bucketing = [MinhashDedupBuckets(str(output / "signatures"), str(output / "buckets"), config=config)]
        clustering = [MinhashDedupCluster(str(output / "buckets"), str(output / "remove"), config)]
        filtering = [
            ParquetReader(str(parts)),
            MinhashDedupFilter(str(output / "remove")),
            ParquetWriter(str(output / "kept")),
        ]
        for steps, tasks in ((signing, 2), (bucketing, BANDS), (clustering, 1), (filtering, 2)):
            LocalPipelineExecutor(steps, tasks=tasks, workers=2).run()

    return remove


RUN: dict[str, Callable[[Path, Path], Callable[[], None]]] = {
    "near": run_near,
    "curate": run_curate,
    "datasketch": run_datasketch,
    "datatrove": run_datatrove,
    "datatrove, by spaces": partial(run_datatrove, by_spaces=True),
}


def measure(tool: str, corpus: Path, output: Path) -> dict[str, float]:
    """Seconds and peak memory of one run in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.dedup", "--run", tool, str(corpus), str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_one(tool: str, corpus: Path, output: Path) -> None:
    remove = RUN[tool](corpus, output)
    started = time.monotonic()
    remove()
    seconds = time.monotonic() - started
    # ru_maxrss of a process begins with its parent's
    status = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    peak = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024}))


def quality(corpus: Path, output: Path) -> str:
    """Recall and precision of what `near` removed."""
    truth = true_removals(corpus)
    removed = {int(name) for name in pq.read_table(output / "drops", columns=["id"])["id"].to_pylist()}
    recall, precision = len(removed & truth) / len(truth), len(removed & truth) / len(removed)
    return f"{recall:.4f} / {precision:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--others", type=int, default=200_000, help="rows for the other tools, and for ours beside them"
    )
    parser.add_argument("--tools", nargs="*", default=[*RUN][2:], help="which others (they must be installed)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, of which the median counts (default 3)")
    parser.add_argument("--write", action="store_true", help="write the table to docs/benchmarks.md")
    parser.add_argument("--run", nargs=3, metavar=("TOOL", "CORPUS", "OUTPUT"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.run:
        run_one(flags.run[0], Path(flags.run[1]), Path(flags.run[2]))
        return
    table, rates = [], {}
    with tempfile.TemporaryDirectory(prefix="alignbeam-dedup-") as scratch:
        write_held_out(Path(scratch, "held_out.parquet"))
        plan = [(rows, ("near", "curate")) for rows in flags.rows]
        plan += [(flags.others, ("near", *flags.tools))] if flags.tools else []
        for rows, tools in plan:
            corpus = Path(scratch, f"corpus-{rows}")
            if not corpus.exists():
                write_corpus(corpus, rows)
            measured: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
            for run in range(flags.runs):
                for tool in tools:
                    output = Path(scratch, f"{tool}-{rows}-{tools[-1]}-{run}")
                    measured[tool].append(measure(tool, corpus, output))
                    print(rows, tool, measured[tool][-1], flush=True)
            for tool in tools:
                rate = statistics.median(rows / one["seconds"] for one in measured[tool])
                peak = statistics.median(one["peak_mb"] for one in measured[tool])
                rates[tool, rows] = rate
                output = Path(scratch, f"near-{rows}-{tools[-1]}-0")
                found = quality(corpus, output) if tool == "near" else ""
                if tool in flags.tools:
                    ratio = rates["near", rows] / rate
                    found = f"near is {ratio:.1f} times as fast" + (f" (bar {BARS[tool]})" if tool in BARS else "")
                table.append([tool, f"{rows:,}", f"{rate:,.0f}", f"{1e6 / rate:.1f}", f"{peak:,.0f}", found])
    headings = ["", "records", "records/s", "µs a record", "peak MB", "recall / precision, or ratio"]
    if flags.write:
        bars = f"near {BARS['near']:,} and curate {BARS['curate']:,} records/s at 1M"
        record("Curation", f"{__doc__}\nMedians of {flags.runs} runs. Bars: {bars}.", headings, table)
    else:
        print(headings, *table, sep="\n")


if __name__ == "__main__":
    main()
