"""alignbeam from Python: what `import alignbeam` gives beside the transforms and the table of stage kinds.

Errors are schemas.errors.UsageError before any work and StageError during it; nothing ends the process.
"""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines import align as align_stage
from pipelines.commands import run as run_command
from pipelines.recipe.graph import Told
from pipelines.recipe.registry import STAGES
from pipelines.runtime.runs import DONE, Record, Run, is_run, open_run
from pipelines.runtime.step import Place, PlannedStep, StageKind
from pipelines.runtime.steps import alone, check_outside, do_steps
from schemas.errors import UsageError
from schemas.settings import validated
from schemas.tables import RESPONSES
from transforms.engines.inspector import check_inspector, open_inspector
from transforms.tables import storage
from transforms.tables.identity import content_id
from transforms.tables.table import Table, read_table
from transforms.tables.write import write_tables

SHARD_ROWS = 8192


def read(path: str, table: str | None = None, *, step: str | None = None) -> Table:
    """Return a table that a step made: of a run directory by default the aligned corpus, else the path's own.

    `to_polars()`, `to_arrow()`, `to_datasets()` bring it into memory, `batches()` goes through it. step: another step
    of the run. UsageError where there is no such table.
    """
    if not is_run(path):
        return read_table(path, table)
    recorded = open_run(path)
    stages = [stage for stage in recorded.stages if stage.status == DONE]
    wanted = [stage for stage in stages if (stage.name == step if step else stage.kind == "align")]
    if not wanted:
        named = ", ".join(stage.name for stage in stages) or "none"
        raise UsageError(f"{path}: no finished step {step or 'of kind align'} in this run; finished are: {named}")
    return read_table(wanted[-1].path, table)


def field(name: str) -> pa.Field:
    """Return a column of texts, for the schema of a table to write."""
    return pa.field(name, pa.string())


def score(pairs: Sequence[tuple[str, str]], inspector: str, *, bf16: bool = False) -> list[float]:
    """Return how aligned each (question, answer) is, from 0 to 1, as the inspector in a folder sees it."""
    check_inspector(inspector)
    questions, answers = [question for question, _ in pairs], [answer for _, answer in pairs]
    return [float(value) for value in open_inspector(inspector, bf16).score(questions, answers)]


def align(
    pairs: Sequence[tuple[str, str]],
    members: Sequence[Mapping[str, Any]],
    *,
    engine: Mapping[str, Any] | None = None,
    cache: str = "",
    **rules: Any,
) -> pa.Table:
    """Return (question, response) pairs aligned: each with `aligned`, `decision`, and scores before and after.

    members: as a recipe's align step has them, with folders in place of names: {criterion, inspector, aligner}. engine:
    settings of EngineConfig. cache: where completions are kept; default: for this call alone. rules: the step's other
    settings, such as `every_row=True`. A row that failed keeps its response; its `decision` says so.
    """
    with tempfile.TemporaryDirectory(prefix="alignbeam-") as home:
        rows = [
            {"id": content_id(question, response), "question": question, "response": response}
            for question, response in pairs
        ]
        corpus = storage.join(home, "pairs")
        table = pa.Table.from_pylist(rows, RESPONSES)
        write_tables(corpus, {"responses": table}, {"stage": "pairs"}, SHARD_ROWS)
        settings = {"responses": corpus, "members": list(members), "routing": "fixed", **rules}
        config = validated(align_stage.Config, "align", settings)
        planned = alone(PlannedStep("align", align_stage.KIND, config), engine)
        place = Place(home, cache)
        check_outside([planned], place)
        return do_steps([planned], Record(home), place)["align"].table().to_arrow()


def run(
    recipe: str | Mapping[str, Any],
    output: str,
    *,
    stages: Mapping[str, StageKind] = STAGES,
    set: Mapping[str, Any] | None = None,
    models: Mapping[str, str] | None = None,
    **flags: Any,
) -> Run:
    """Run a recipe, a file or a mapping, as `alignbeam run` does; return what the run directory then says.

    stages: the kinds that it may name, such as a copy of STAGES with one more. set: settings over the recipe's. models:
    ids by entry. flags: those of the command, such as until="curated".
    """
    config = validated(run_command.Config, "run", {"recipe": str(recipe), "output": output, **flags})
    told = Told(set or {}, models or {}, config.limit)
    mapping = None if isinstance(recipe, str) else recipe
    run_command.run(config, told, recipe=mapping, stages=stages)
    return open_run(output)
