"""Leakage: rows whose question is one of the held-out questions, nearly one, or contains a long part of one.

Near: the Jaccard similarity of the sets of word n-grams reaches the threshold, exactly and for all pairs. A held-out
set x can only be that similar to a set that holds one of the rarest |x| - ⌈t|x|⌉ + 1 of x's shingles, so only these are
looked up. Overlap: the row holds some run of `overlap_words` words of a held-out question (13 as in Brown et al. 2020,
app. C); a held-out question that is shorter must be the whole of the row.
"""

from bisect import bisect_left
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
from transforms.tables.table import MANIFEST, read_table
from transforms.texts.near_duplicates import Similarity
from transforms.texts.shingles import Shingles, expand, jaccard, shingles
from transforms.texts.words import words_of

ENDINGS = 1 << 20


@dataclass(frozen=True)
class Postings:
    """Which held-out items have a shingle, by ascending hash; items ascend within a hash."""

    hashes: np.ndarray
    items: np.ndarray
    endings: np.ndarray  # bool[ENDINGS]: the last bits of any hash

    @classmethod
    def of(cls, hashes: np.ndarray, items: np.ndarray) -> "Postings":
        order = np.lexsort((items, hashes))
        endings = np.zeros(ENDINGS, np.bool_)
        endings[hashes % ENDINGS] = True
        return cls(hashes[order], items[order], endings)

    def matches(self, found: Shingles) -> tuple[np.ndarray, np.ndarray]:
        """The distinct pairs (text, item) that share a shingle, ascending."""
        places = np.flatnonzero(self.endings[found.values % ENDINGS])  # the few that need a look
        starts = np.searchsorted(self.hashes, found.values[places])
        sizes = np.searchsorted(self.hashes, found.values[places], side="right") - starts
        texts = np.repeat(np.searchsorted(found.offsets, places, side="right") - 1, sizes)
        pairs = np.unique(texts * (self.items.max(initial=0) + 1) + self.items[expand(starts, sizes)])
        return np.divmod(pairs, self.items.max(initial=0) + 1)


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
    """The held-out questions of tables, files and folders (Parquet, JSON lines, CSV) by name.

    A row of a table is named by its id, a record of a file by `file:number`, from 1. The question stands in `column`
    where there is one, else under one of the usual names. Raises UsageError naming a file that is missing, empty or
    without such a column.
    """
    questions: dict[str, str] = {}
    labels: set[str] = set()
    is_there = False
    for path in paths:
        if storage.exists(storage.join(path, MANIFEST)):
            table = read_table(path)
            chosen = column if column and column in table.schema.names else "question"
            is_there |= chosen == column
            check_texts(path, table.schema, ["id", chosen])
            for batch in table.batches(["id", chosen]):
                questions |= zip(*(array.to_pylist() for array in batch.columns), strict=True)
            continue
        for file in records.find_files(path):
            given = column if column in records.column_names(file) else None
            is_there |= given is not None
            try:
                columns = choose_columns(file, "questions", {"question": given})
            except UsageError as error:
                raise UsageError(str(error).replace("--question-column", "--heldout-column")) from error
            schema = pa.schema({"id": pa.string(), "question": pa.string()})
            label = file.removeprefix(path).lstrip("/") or file.rpartition("/")[2]
            label = file if label in labels else label
            labels.add(label)
            for chunk in read_chunks(0, file, "questions", columns, schema):
                texts = pc.struct_field(chunk.batch.column("row"), "question").to_pylist()
                for number, question in enumerate(texts, chunk.first_row + 1):
                    if question is not None:
                        questions[f"{label}:{number}"] = question
    if column and not is_there:
        raise UsageError(f"heldout_column: none of {', '.join(paths)} has a column {column!r}")
    if paths and not questions:
        raise UsageError(f"{', '.join(paths)}: no held-out question could be read there")
    return questions


def index_held_out(questions: dict[str, str], similarity: Similarity, overlap_words: int) -> HeldOut:
    """Held-out questions by name, hashed for look-up."""
    names = sorted(questions)
    texts = words_of(pa.array([questions[name] for name in names], pa.string()))
    sets = shingles(texts, similarity.words).sets()
    items, sizes = np.repeat(np.arange(len(names)), sets.sizes()), sets.sizes()
    _, of_value, counts = np.unique(sets.values, return_inverse=True, return_counts=True)
    order = np.lexsort((sets.values, counts[of_value], items))
    rarest = sizes - np.ceil(similarity.jaccard * sizes - 1e-9).astype(np.int64) + 1
    probes = order[expand(np.zeros(len(sizes), np.int64), sizes) < np.repeat(rarest, sizes)]
    runs = shingles(texts, overlap_words)
    return HeldOut(
        names=tuple(names),
        questions=tuple(questions[name] for name in names),
        digest=content_id(*(part for name in names for part in (name, questions[name]))),
        similarity=similarity,
        overlap_words=overlap_words,
        sets=sets,
        near=Postings.of(sets.values[probes], items[probes]),
        overlap=Postings.of(runs.values, np.repeat(np.arange(len(names)), runs.sizes())),
    )


def drop_leaked(batch: pa.RecordBatch, held_out: HeldOut) -> pa.RecordBatch:
    """Mark rows that match a held-out question and name it in `leaked_from`.

    `leaked_near_duplicate` names the most similar question, `leaked_overlap` the first that shares a run of words.
    """
    live = np.flatnonzero(kept(batch))
    texts = words_of(batch.column("question"))
    if len(live) < batch.num_rows:
        texts = texts.take(live)
    near, overlapping = _nearest(shingles(texts, held_out.similarity.words).sets(), held_out), np.full(len(live), -1)
    rows, items = held_out.overlap.matches(shingles(texts, held_out.overlap_words))
    overlapping[rows[::-1]] = items[::-1]  # the first item of a row is written last
    source = np.full(batch.num_rows, -1)
    source[live] = np.where(near >= 0, near, overlapping)
    is_near = np.zeros(batch.num_rows, np.bool_)
    is_near[live] = near >= 0
    batch = drop_where(batch, pa.array(is_near), "leaked_near_duplicate")
    batch = drop_where(batch, pc.and_not(pa.array(source >= 0), pa.array(is_near)), "leaked_overlap")
    names = pa.array(held_out.names, pa.string()).take(pa.array(source, mask=source < 0))
    return batch.append_column("leaked_from", names)


def quote_leaks(batch: pa.RecordBatch, held_out: HeldOut) -> pa.RecordBatch:
    """Add `leaked_question`, the text of the held-out question that `leaked_from` names."""
    names = batch.column("leaked_from").to_pylist()
    texts = [held_out.questions[bisect_left(held_out.names, name)] if name else None for name in names]
    return batch.append_column("leaked_question", pa.array(texts, pa.string()))


def _nearest(sets: Shingles, held_out: HeldOut) -> np.ndarray:
    """The item most similar to every set, the first of equals; -1 where none reaches the threshold."""
    rows, items = held_out.near.matches(sets)
    similar = jaccard(sets, rows, held_out.sets, items)
    reach = similar >= held_out.similarity.jaccard
    rows, items, similar = rows[reach], items[reach], similar[reach]
    nearest = np.full(len(sets.offsets) - 1, -1)
    last_is_best = np.lexsort((-items, similar, rows))
    nearest[rows[last_is_best]] = items[last_is_best]
    return nearest
