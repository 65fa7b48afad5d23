"""Leakage: rows whose question is one of the held-out questions, nearly one, or contains a long part of one.

Near: the Jaccard similarity of the sets of word n-grams reaches the threshold, exactly and for all pairs. A held-out
set x can only be that similar to a set that holds one of the rarest |x| - ⌈t|x|⌉ + 1 of x's shingles, so only these are
looked up. Overlap: the row holds some run of `overlap_words` words of a held-out question (13 as in Brown et al. 2020,
app. C); a held-out question that is shorter must be the whole of the row.

An item is the number of a held-out question. Shapes: N texts, M hashes of all their shingles, P postings.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import UsageError
from transforms.corpora import records
from transforms.corpora.fields import choose_columns, read_chunks
from transforms.tables import storage
from transforms.tables.columns import check_texts
from transforms.tables.identity import content_id
from transforms.tables.marks import drop_where, kept
from transforms.tables.table import MANIFEST, Table, read_table
from transforms.texts.near_duplicates import Similarity
from transforms.texts.shingles import Shingles, expand, jaccard, shingles
from transforms.texts.words import words_of

ENDINGS = 1 << 20


@dataclass(frozen=True)
class Postings:
    """The held-out items that have a shingle, by ascending hash; items ascend within a hash: two of [P]."""

    hashes: np.ndarray
    items: np.ndarray
    endings: np.ndarray  # bool[ENDINGS]: the last bits of any hash

    @classmethod
    def of(cls, hashes: np.ndarray, items: np.ndarray) -> "Postings":
        order = np.lexsort((items, hashes))
        endings = np.zeros(ENDINGS, np.bool_)
        endings[hashes % ENDINGS] = True
        return cls(hashes[order], items[order], endings)

    def matches(self, texts: Shingles) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct pairs (text, item) that share a shingle, ascending."""
        # hashes [3, 3, 8] of items [0, 2, 1]; two texts with the shingles {3, 5} and {8}: values [3, 5, 8]
        # → shared [0, 2], where the endings of 3 and 8 are seen → starts [0, 2], sizes [2, 1]
        # → owners [0, 0, 1] and items [0, 2, 1] → pairs [0 * 3 + 0, 0 * 3 + 2, 1 * 3 + 1] → texts [0, 0, 1]
        shared = np.flatnonzero(self.endings[texts.values % ENDINGS])  # the few shingles that need a look
        starts = np.searchsorted(self.hashes, texts.values[shared])
        sizes = np.searchsorted(self.hashes, texts.values[shared], side="right") - starts
        owners = np.repeat(np.searchsorted(texts.offsets, shared, side="right") - 1, sizes)
        items = self.items[expand(starts, sizes)]
        count = self.items.max(initial=0) + 1
        pairs = np.unique(owners * count + items)
        return np.divmod(pairs, count)


@dataclass(frozen=True)
class HeldOut:
    """Held-out questions, ready to be looked up."""

    names: tuple[str, ...]
    questions: tuple[str, ...]
    digest: str
    similarity: Similarity
    overlap_words: int
    sets: Shingles
    near: Postings
    overlap: Postings


def read_held_out(paths: tuple[str, ...], column: str | None = None) -> dict[str, str]:
    """Read held-out questions by name from tables, files and folders (Parquet, JSON lines, CSV).

    A row of a table is named by its id, a record of a file by `file:number`, from 1. The question stands in `column`
    where there is one, else under one of the usual names. Raises UsageError naming a file that is missing, empty or
    without such a column.
    """
    questions: dict[str, str] = {}
    labels: set[str] = set()
    has_column = False
    for path in paths:
        if storage.exists(storage.join(path, MANIFEST)):
            table = read_table(path)
            chosen = column if column and column in table.schema.names else "question"
            has_column |= chosen == column
            questions |= questions_of(table, chosen)
            continue
        for file in records.find_files(path):
            named = column if column in records.column_names(file) else None
            has_column |= named is not None
            label = file.removeprefix(path).lstrip("/") or file.rpartition("/")[2]
            label = file if label in labels else label
            labels.add(label)
            questions |= _questions_of_file(file, label, named)
    if column and not has_column:
        raise UsageError(f"heldout_column: none of {', '.join(paths)} has a column {column!r}")
    if paths and not questions:
        raise UsageError(f"{', '.join(paths)}: no held-out question could be read there")
    return questions


def questions_of(table: Table, column: str = "question") -> dict[str, str]:
    """Return a table's questions by id; UsageError where it has none, or no ids."""
    check_texts(table.path, table.schema, ["id", column])
    questions: dict[str, str] = {}
    for batch in table.batches(["id", column]):
        questions |= zip(*(array.to_pylist() for array in batch.columns), strict=True)
    return questions


def _questions_of_file(file: str, label: str, column: str | None) -> Iterator[tuple[str, str]]:
    """Yield the questions of one file with their names; `column` None stands for the usual names."""
    try:
        columns = choose_columns(file, "questions", {"question": column})
    except UsageError as error:
        raise UsageError(str(error).replace("--question-column", "--heldout-column")) from error
    schema = pa.schema({"id": pa.string(), "question": pa.string()})
    for chunk in read_chunks(0, file, "questions", columns, schema):
        texts = pc.struct_field(chunk.batch.column("row"), "question").to_pylist()
        for number, question in enumerate(texts, chunk.first_row + 1):
            if question is not None:
                yield f"{label}:{number}", question


def index_held_out(questions: dict[str, str], similarity: Similarity, overlap_words: int) -> HeldOut:
    """Hash held-out questions, given by name, for look-up."""
    names = sorted(questions)
    texts = words_of(pa.array([questions[name] for name in names], pa.string()))
    sets, runs = shingles(texts, similarity.words).sets(), shingles(texts, overlap_words)
    probes, items = _rarest(sets, similarity.jaccard)
    return HeldOut(
        names=tuple(names),
        questions=tuple(questions[name] for name in names),
        digest=content_id(*(part for name in names for part in (name, questions[name]))),
        similarity=similarity,
        overlap_words=overlap_words,
        sets=sets,
        near=Postings.of(probes, items),
        overlap=Postings.of(runs.values, np.repeat(np.arange(len(names)), runs.sizes())),
    )


def _rarest(sets: Shingles, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return every set's rarest shingles, and the number of the set of each.

    Any set so similar must hold one of them.
    """
    # sets {a b c}, {b c} at 0.6: items [0, 0, 0, 1, 1], frequency [1, 2, 2, 2, 2]
    # → order [0, 1, 2, 3, 4], the rarest of each set first; rank [0, 1, 2, 0, 1]
    # → needed [3 - 2 + 1, 2 - 2 + 1] = [2, 1] → probes [0, 1, 3]: a and b of the first set, b of the second
    sizes = sets.sizes()
    items = np.repeat(np.arange(len(sizes)), sizes)
    _, value_numbers, counts = np.unique(sets.values, return_inverse=True, return_counts=True)
    frequency = counts[value_numbers]
    order = np.lexsort((sets.values, frequency, items))
    rank = expand(np.zeros(len(sizes), np.int64), sizes)
    needed = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    probes = order[rank < np.repeat(needed, sizes)]
    return sets.values[probes], items[probes]


def drop_leaked(batch: pa.RecordBatch, held_out: HeldOut) -> pa.RecordBatch:
    """Mark rows that match a held-out question and name it in `leaked_from`.

    `leaked_near_duplicate` names the most similar question, `leaked_overlap` the first that shares a run of words.
    """
    # rows [0, 1, 2], of which 1 is dropped already: kept_rows [0, 2]
    # near [-1, 7], overlapping [4, 9] → leaked [4, 7] → source [4, -1, 7], is_near [no, no, yes]
    kept_rows = np.flatnonzero(kept(batch))
    texts = words_of(batch.column("question"))
    if len(kept_rows) < batch.num_rows:
        texts = texts.take(kept_rows)
    near = _nearest(shingles(texts, held_out.similarity.words).sets(), held_out)
    overlapping = _first_overlapping(shingles(texts, held_out.overlap_words), held_out)
    source, is_near = np.full(batch.num_rows, -1), np.zeros(batch.num_rows, np.bool_)
    source[kept_rows] = np.where(near >= 0, near, overlapping)
    is_near[kept_rows] = near >= 0
    batch = drop_where(batch, pa.array(is_near), "leaked_near_duplicate")
    batch = drop_where(batch, pc.and_not(pa.array(source >= 0), pa.array(is_near)), "leaked_overlap")
    names = pa.array(held_out.names, pa.string()).take(pa.array(source, mask=source < 0))
    return batch.append_column("leaked_from", names)


def quote_leaks(batch: pa.RecordBatch, held_out: HeldOut) -> pa.RecordBatch:
    """Add `leaked_question`, the text of the held-out question that `leaked_from` names."""
    names = batch.column("leaked_from").to_pylist()
    texts = [held_out.questions[bisect_left(held_out.names, name)] if name else None for name in names]
    return batch.append_column("leaked_question", pa.array(texts, pa.string()))


def _first_overlapping(runs: Shingles, held_out: HeldOut) -> np.ndarray:
    """Return for every text the first item that shares a run of words with it, or -1: int64[N]."""
    # pairs (text 0, item 4), (text 0, item 9) → written from the last on: [9], then [4]
    first = np.full(len(runs.offsets) - 1, -1)
    texts, items = held_out.overlap.matches(runs)
    first[texts[::-1]] = items[::-1]
    return first


def _nearest(sets: Shingles, held_out: HeldOut) -> np.ndarray:
    """Return for every set the most similar item, the first of equals, or -1: int64[N].

    It is -1 where no item reaches the threshold.
    """
    # pairs (set 0, item 4) of 0.8, (0, 6) of 0.9, (0, 9) of 0.9 → sorted [4, 9, 6] → the last one written is item 6
    texts, items = held_out.near.matches(sets)
    similar = jaccard(sets, texts, held_out.sets, items)
    is_near = similar >= held_out.similarity.jaccard
    texts, items, similar = texts[is_near], items[is_near], similar[is_near]
    best_last = np.lexsort((-items, similar, texts))
    nearest = np.full(len(sets.offsets) - 1, -1)
    nearest[texts[best_last]] = items[best_last]
    return nearest
