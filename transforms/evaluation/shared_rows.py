"""The rows that several tables can be compared on: those that all of them have, and can be counted in all.

A row is known by its id and its occurrence: the first, second, … row of that id. So neither the order of a table's
shards nor rows that it lacks shift what is compared with what.

Shapes: N rows of one table, S shared rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import polars as pl
import pyarrow as pa

KEY = ["id", "occurrence"]


@dataclass(frozen=True)
class SharedRows:
    """What several tables share.

    numbers: of every label the row numbers [S] in its table, the same row of all at the same position. total: rows that
    any table has. lacking: how many of them each label lacks.
    """

    numbers: dict[str, np.ndarray]
    total: int
    lacking: dict[str, int]

    @property
    def rows(self) -> int:
        return len(next(iter(self.numbers.values())))


def shared_rows(ids: Mapping[str, pa.Array | pa.ChunkedArray], is_counted: Mapping[str, np.ndarray]) -> SharedRows:
    """Return the rows that are counted in every table, from the ids [N] of each label and which rows count there.

    They are in the order of the table whose label sorts first, so that the order of labels changes nothing.
    """
    labels = sorted(ids)
    rows = [_numbered(ids[label], f"number {position}") for position, label in enumerate(labels)]
    counted = [table.filter(pl.Series(is_counted[label])) for label, table in zip(labels, rows, strict=True)]
    # {a: [x y x], b: [x x]}, all counted → of a (x 0) 0, (y 0) 1, (x 1) 2; of b (x 0) 0, (x 1) 1 → a: [0 2], b: [0 1]
    shared = reduce(lambda left, right: left.join(right, on=KEY, how="inner", maintain_order="left"), counted)
    total = pl.concat([table.select(KEY) for table in rows]).unique().height
    numbers = {label: shared[f"number {position}"].to_numpy() for position, label in enumerate(labels)}
    lacking = {label: total - int(np.count_nonzero(is_counted[label])) for label in ids}
    return SharedRows({label: numbers[label] for label in ids}, total, lacking)


def _numbered(ids: pa.Array | pa.ChunkedArray, number: str) -> pl.DataFrame:
    """Return the rows of a table by id, with the occurrence of each, and its number in a column of this name."""
    frame = pl.DataFrame({"id": pl.from_arrow(ids)}).with_row_index(number)
    return frame.with_columns(pl.int_range(pl.len()).over("id").alias("occurrence"))
