"""Selection: rows by the values in their columns, and so many of them by the smallest hashes of their ids.

The order of the hashes is the same however many rows are taken, so a smaller share lies in every larger one, and rows
of one id stay together. Every split that has rows keeps those of its smallest hash, whatever the share. Rows that are
not selected are marked nowhere, because they stay in the table from which is selected.

Shapes: N rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from schemas.errors import UsageError
from transforms.texts.shingles import scramble
from transforms.texts.words import byte_hashes

Where = Mapping[str, tuple[Any, ...]]  # by column, the values of which a row has one


@dataclass(frozen=True)
class Smallest:
    """Which hashes are taken: those up to `last`, and the smallest of each split."""

    last: int | None
    firsts: frozenset[int] = frozenset()

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """Return which hashes are taken: bool[N]."""
        is_first = np.isin(hashes, np.array(sorted(self.firsts), np.uint64))
        return is_first if self.last is None else is_first | (hashes <= np.uint64(self.last))


def check_where(path: str, schema: pa.Schema, where: Where) -> None:
    """Raise UsageError naming a column that is missing, or values that it cannot hold."""
    for column, values in where.items():
        if column not in schema.names:
            raise UsageError(f"where.{column}: {path} has no such column; it has {', '.join(schema.names)}")
        kind = schema.field(column).type
        try:
            array = pa.array(values, kind)
            pc.is_in(pa.array([], kind), value_set=array)
            can_be_held = array.to_pylist() == list(values)  # 1.5 would become the integer 1
        except pa.ArrowException:
            can_be_held = False
        if not can_be_held:
            raise UsageError(f"where.{column}: {list(values)} is not what {path} holds there: {kind}")


def id_hashes(batch: pa.RecordBatch, seed: int) -> np.ndarray:
    """Return a hash of every row's id: uint64[N]."""
    salt = np.uint64(xxhash.xxh3_64_intdigest(f"derive {seed}".encode()))
    return scramble(byte_hashes(batch.column("id")) ^ salt)


def select_rows(batch: pa.RecordBatch, where: Where, seed: int = 0, smallest: Smallest | None = None) -> pa.RecordBatch:
    """Return the rows that have the values, and whose hashes are taken."""
    for column, values in where.items():
        array = batch.column(column)
        batch = batch.filter(pc.is_in(array, value_set=pa.array(values, array.type)))
    if smallest is not None:
        batch = batch.filter(pa.array(smallest.holds(id_hashes(batch, seed))))
    return batch


def find_smallest(
    batches: Iterable[pa.RecordBatch], where: Where, seed: int, share: float | None, limit: int | None
) -> Smallest:
    """Return the hashes to take of the rows that have the values.

    The batches have `id`, the columns of `where`, and `split` where each split is to keep a row. Eight bytes a row are
    kept in memory.
    """
    hashes = [np.empty(0, np.uint64)]
    firsts: dict[str, int] = {}
    for batch in batches:
        selected = select_rows(batch, where)
        hashes.append(id_hashes(selected, seed))
        splits = selected.column("split") if "split" in selected.schema.names else pa.array([], pa.string())
        for split in splits.unique().drop_null().to_pylist():
            is_in_split = pc.fill_null(pc.equal(splits, split), False).to_numpy(zero_copy_only=False)
            smallest = int(hashes[-1][is_in_split].min())
            firsts[split] = min(smallest, firsts.get(split, smallest))
    return take_smallest(np.concatenate(hashes), frozenset(firsts.values()), share, limit)


def take_smallest(hashes: np.ndarray, firsts: frozenset[int], share: float | None, limit: int | None) -> Smallest:
    """Return the hashes to take: `firsts`, and the smallest of this share of the rows, but no more than `limit`."""
    # hashes [7 2 9 2 5], firsts {9}, 4 rows to take: values [2 5 7 9] of [2 1 1 1] rows
    # → without the firsts [2 5 7], which end at rows [2 3 4], and 3 rows are left for them: up to 5
    count = len(hashes) if share is None else int(np.ceil(share * len(hashes) - 1e-9))
    count = count if limit is None else min(count, limit)
    values, rows = np.unique(hashes, return_counts=True)
    is_first = np.isin(values, np.array(sorted(firsts), np.uint64))
    ends = np.cumsum(rows[~is_first])
    fitting = int(np.searchsorted(ends, count - rows[is_first].sum(), side="right"))
    if not firsts:  # the rows of one id may be more than are to be taken
        fitting = max(fitting, 1)
    taken = values[~is_first][:fitting]
    return Smallest(int(taken[-1]) if len(taken) else None, firsts)
