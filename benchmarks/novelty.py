"""ROUGE-L novelty over real questions: seconds, and the same answer as comparing all pairs of a sample.

    python -m benchmarks.novelty QUESTIONS --column input --write

In the order of the files, a question whose ROUGE-L (F measure over words, the longest common subsequence) with one that
was kept is above 0.7 is dropped, as Self-Instruct does. The sample's pairs are compared one by one with rapidfuzz.
"""

import argparse
import statistics
import time

import numpy as np
import pyarrow as pa
from rapidfuzz.distance import LCSseq

from benchmarks.record import record
from transforms.corpora import records
from transforms.curation.novelty import similar_kept
from transforms.texts.words import Words, words_of

THRESHOLD = 0.7
SAMPLE = 2_000
BAR_SECONDS = 120


def read_questions(folder: str, column: str) -> list[str]:
    lines = (line for path in records.find_files(folder) for line in records.read_lines(path))
    return [line.values[column] for line in lines if line.error is None and line.values.get(column)]


def all_pairs(words: Words) -> list[int]:
    """Of every text the earlier kept one that it is too similar to, or -1; any of them where there are several."""
    texts = np.split(words.values, words.offsets[1:-1])
    lists = [text.tolist() for text in texts]
    kept: list[int] = []
    found: list[int] = []
    for text in lists:
        similar = [
            place
            for place in kept
            if 2 * LCSseq.similarity(text, lists[place]) > THRESHOLD * (len(text) + len(lists[place])) + 1e-9
        ]
        found.append(similar[0] if similar else -1)
        if not similar:
            kept.append(len(found) - 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", help="file or folder")
    parser.add_argument("--column", default="question")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the table to docs/benchmarks.md")
    flags = parser.parse_args()
    questions = read_questions(flags.questions, flags.column)
    seconds = []
    for _ in range(flags.runs):
        started = time.monotonic()
        similar = similar_kept(words_of(pa.array(questions)), THRESHOLD)
        seconds.append(time.monotonic() - started)
    drawn = np.sort(np.random.default_rng(0).choice(len(questions), SAMPLE, replace=False))
    sample = words_of(pa.array([questions[place] for place in drawn]))
    same = (similar_kept(sample, THRESHOLD) == np.array(all_pairs(sample))).mean()
    headings = ["questions", "dropped", "seconds", "bar", f"equal to all pairs, of {SAMPLE:,} drawn"]
    row = [
        f"{len(questions):,}",
        f"{(similar >= 0).sum():,}",
        f"{statistics.median(seconds):.1f}",
        f"{BAR_SECONDS}",
        f"{same:.2%}",
    ]
    if flags.write:
        record("Novelty", f"{__doc__}\nMedian of {flags.runs} runs, one thread.", headings, [row])
    else:
        print(headings, row, sep="\n")


if __name__ == "__main__":
    main()
