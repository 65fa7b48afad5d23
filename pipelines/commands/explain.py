"""Explain what curating does to one row: the verdict of every rule, and the row's fate once the stage has run."""

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table as Grid
from rich.text import Text

from pipelines.runtime.stage import Stage
from schemas.console import results
from schemas.errors import UsageError
from schemas.tables import DROP_COLUMNS, SPLIT_COLUMNS
from transforms.curation.leakage import HeldOut, drop_leaked, quote_leaks
from transforms.curation.validity import Rule, drop_invalid, explain
from transforms.tables.chunks import HASHED_ROWS
from transforms.tables.table import Table


def explain_row(row_id: str, table: Table, rules: tuple[Rule, ...], held_out: HeldOut, stage: Stage) -> None:
    """Print what every rule sees in the row, and its fate.

    Raises UsageError where the table has no row of this id.
    """
    row = find_row(table, row_id)
    if row is None:
        raise UsageError(f"--explain {row_id}: {table.path} has no row of this id")
    row = drop_invalid(row, ())
    grid = Grid("rule", "column", "verdict", "what it saw")
    if row.column("drop_reason")[0].is_valid:
        grid.add_row(row.column("drop_reason")[0].as_py(), "", verdict(True), "bytes that are not UTF-8")
    for reason, columns, broken, seen in explain(row, rules):
        grid.add_row(reason, columns, verdict(broken), seen)
    if held_out.names:
        leak = quote_leaks(drop_leaked(row.drop_columns(["drop_reason"]), held_out), held_out).to_pylist()[0]
        seen = f"{leak['leaked_from']}: {leak['leaked_question']}" if leak["leaked_from"] else "no match"
        grid.add_row(leak["drop_reason"] or "leaked", "question", verdict(leak["drop_reason"] is not None), seen)
    results.print(grid)
    if not stage.is_done():
        results.print("Duplicates, quotas and splits are known once the same command has run without --explain.")
        return
    for name in stage.read_manifest()["tables"]:
        fate = find_row(stage.table(name), row_id)
        if fate is not None:
            marks = fate.select([mark for mark in (*SPLIT_COLUMNS, *DROP_COLUMNS) if mark in fate.schema.names])
            text = ", ".join(f"{mark} {value}" for mark, value in marks.to_pylist()[0].items() if value is not None)
            results.print(f"in the table {name}: {text}", soft_wrap=True)


def verdict(broken: bool) -> Text:
    return Text("drop", "red") if broken else Text("pass")


def find_row(table: Table, row_id: str) -> pa.RecordBatch | None:
    """Return the first row with this id."""
    for batch in table.batches(None, HASHED_ROWS):
        row_number = pc.index(batch.column("id"), row_id).as_py()
        if row_number >= 0:
            return batch.slice(row_number, 1)
    return None
