"""What curating found to repeat another row: how many rows each kept one stands for, and examples side by side."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runtime.runs import RecordedStage
from transforms.curation.validity import TEXT_COLUMNS
from transforms.tables.table import Table

EXACT = "exact_duplicate"
EXAMPLES = 6  # of every reason
SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Pair:
    """A dropped row's texts and those of the row that it repeats.

    They are None where that row is not in the tables.
    """

    reason: str
    dropped: str
    repeated: str | None


@dataclass(frozen=True)
class Duplicates:
    sizes: Counter[int] = field(default_factory=Counter)  # rows in a group, the one that stays too: how many groups
    pairs: list[Pair] = field(default_factory=list)


def find_duplicates(stage: RecordedStage) -> Duplicates:
    """Return groups and examples from the drops of a curate stage.

    There are no examples of equal words.
    """
    drops, kept = stage.table("drops"), stage.table(next(iter((stage.manifest or {}).get("tables", {})), ""))
    if drops is None or kept is None or "duplicate_of" not in drops.schema.names:
        return Duplicates()
    links = pl.concat([pl.from_arrow(batch) for batch in drops.batches(["duplicate_of"])] or [pl.DataFrame()])
    groups = links.drop_nulls().group_by("duplicate_of").len() if len(links) else None
    if groups is None or not len(groups):
        return Duplicates()
    sizes = Counter({rows + 1: count for rows, count in groups["len"].value_counts().sort("len").iter_rows()})
    examples = _examples(drops)
    repeated_ids = {row["duplicate_of"] for row in examples}
    texts = _texts_of(kept, repeated_ids)
    texts |= _texts_of(drops, repeated_ids - texts.keys())
    pairs = [Pair(row["drop_reason"], _shown(row), texts.get(row["duplicate_of"])) for row in examples]
    return Duplicates(sizes, pairs)


def _examples(drops: Table) -> list[dict]:
    """Return the first rows of every reason that name another row."""
    rows_of: dict[str, list[dict]] = {}
    for batch in drops.batches(_columns(drops, "duplicate_of", "drop_reason")):
        batch = batch.filter(pc.and_(pc.is_valid(batch["duplicate_of"]), pc.not_equal(batch["drop_reason"], EXACT)))
        for reason in pc.unique(batch["drop_reason"]).to_pylist():
            of_reason = rows_of.setdefault(reason, [])
            rows = batch.filter(pc.equal(batch["drop_reason"], reason)).slice(0, EXAMPLES - len(of_reason))
            of_reason += rows.to_pylist()
    return [row for reason in sorted(rows_of) for row in rows_of[reason]]


def _texts_of(table: Table, ids: Iterable[str]) -> dict[str, str]:
    """Return what is shown of the rows with these ids."""
    wanted = pa.array(sorted(ids), pa.string())
    texts: dict[str, str] = {}
    for batch in table.batches(_columns(table)) if len(wanted) else ():
        rows = batch.filter(pc.is_in(batch["id"].cast(pa.string()), wanted))
        texts |= {row["id"]: _shown(row) for row in rows.to_pylist()}
    return texts


def _columns(table: Table, *more: str) -> list[str]:
    return ["id", *(name for name in TEXT_COLUMNS if name in table.schema.names), *more]


def _shown(row: dict) -> str:
    texts = (" ".join((row[name] or "").split()) for name in TEXT_COLUMNS if name in row)
    return " ¶ ".join(text[:SHOWN_CHARACTERS] + "…" * (len(text) > SHOWN_CHARACTERS) for text in texts)
