"""The card of curated data: what is in it, where it came from, and what was dropped for which reason."""

from collections import Counter
from collections.abc import Iterable

import pyarrow.compute as pc

from pipelines.runtime.stage import Stage
from transforms.curation.validity import TEXT_COLUMNS
from transforms.tables.chunks import HASHED_ROWS
from transforms.tables.columns import is_text
from transforms.tables.table import Table

ORIGINS = ("license", "licence", "dataset", "source", "origin", "document", "generator", "criterion")
EXAMPLES, SHOWN = 3, 120
MOST_VALUES = 20


def data_card(stage: Stage) -> str:
    """Write README.md of a curated table, in Markdown.

    Texts of the data are cut and cannot become markup.
    """
    manifest = stage.read_manifest()
    counts, name = manifest["counts"], next(iter(manifest["tables"]))
    kept = stage.table(name)
    parts = [
        f"# Curated {name}",
        f"{counts['in']:,} rows came in, {counts['kept']:,} were kept. Made by `alignbeam curate`; digest "
        f"`{manifest['digest']}` stands for the input and all settings, which `manifest.json` lists.",
        "## Splits\n\n" + _table(["split", "rows"], _values(kept, "split").most_common()),
    ]
    for column in (field.name for field in kept.schema if field.name in ORIGINS and is_text(field.type)):
        values = [(_code(value), rows) for value, rows in _values(kept, column).most_common()]
        more = [("…", f"{len(values) - MOST_VALUES:,} more values")] if len(values) > MOST_VALUES else []
        parts.append(f"## By {column}\n\n" + _table([column, "rows"], [*values[:MOST_VALUES], *more]))
    if counts["drops"]:
        parts.append("## Dropped\n\n" + _table(["reason", "rows"], counts["drops"].items()))
        parts.append(_examples(stage.table("drops"), list(counts["drops"])))
    return "\n\n".join(parts) + "\n"


def _values(table: Table, column: str) -> Counter[str]:
    """Count the rows of each value of a column."""
    counts: Counter[str] = Counter()
    for batch in table.batches([column], HASHED_ROWS):
        for item in pc.value_counts(batch.column(column)).to_pylist():
            counts[str(item["values"])] += item["counts"]
    return counts


def _examples(drops: Table, reasons: list[str]) -> str:
    """Show the first rows dropped for each reason."""
    texts = [name for name in TEXT_COLUMNS if name in drops.schema.names]
    links = [name for name in ("duplicate_of", "leaked_from") if name in drops.schema.names]
    missing = dict.fromkeys(reasons, EXAMPLES)
    lines: dict[str, list[str]] = {reason: [] for reason in reasons}
    for batch in drops.batches(["id", *texts, *links, "drop_reason"], HASHED_ROWS):
        for reason in [reason for reason in reasons if missing[reason]]:
            rows = batch.filter(pc.equal(batch.column("drop_reason"), reason)).slice(0, missing[reason])
            missing[reason] -= rows.num_rows
            lines[reason] += [_example(row, texts, links) for row in rows.to_pylist()]
        if not any(missing.values()):
            break
    return "\n\n".join(f"### {reason}\n\n" + "\n".join(shown) for reason, shown in lines.items())


def _example(row: dict, texts: list[str], links: list[str]) -> str:
    parts = [f"{name} {_code(row[name])}" for name in (*texts, *links) if row[name] is not None]
    return f"- {_code(row['id'] or '')}: " + "; ".join(parts)


def _code(text: str) -> str:
    """Write a text as a code span on one line."""
    line = " ".join(text.replace("`", "\u02cb").split())
    return f"`{line[:SHOWN]}{'…' if len(line) > SHOWN else ''}`" if line else "(empty)"


def _table(headings: list[str], rows: Iterable[tuple[str, object]]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *cells])
