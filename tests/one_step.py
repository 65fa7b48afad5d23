"""One step done alone, as a command does it: what its Config takes and uses are paths."""

from collections.abc import Mapping
from typing import Any

from pipelines.runtime.runs import Record
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import Place, PlannedStep, StageKind
from pipelines.runtime.steps import alone, do_steps


def do(
    kind: StageKind, config: Any, output: object, engine: Mapping[str, Any] | None = None, beam=(), **place: Any
) -> Stage:
    planned = alone(PlannedStep(kind.name, kind, config, beam_arguments=tuple(beam)), engine)
    return do_steps([planned], Record(str(output)), Place(str(output), **place))[kind.name]
