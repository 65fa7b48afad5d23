"""How the steps of a run stand: done, stale because of what, to do, interrupted or failed; nothing is done here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.runtime.runs import DONE, Record
from pipelines.runtime.stage import changes
from pipelines.runtime.step import Place, PlannedStep, Step, in_order
from pipelines.runtime.steps import BEHIND, Made, check_result, open_step
from schemas.errors import StageError, UsageError

TO_DO, STALE, FAILED, INTERRUPTED = "to do", "stale", "failed", "interrupted"
AS_BEFORE = {FAILED: FAILED, INTERRUPTED: INTERRUPTED, "running": INTERRUPTED}  # how a step that is not done stands


@dataclass(frozen=True)
class Standing:
    """How a step stands now, and why; `step` is None where its inputs are not there."""

    planned: PlannedStep
    status: str
    because: tuple[str, ...] = ()
    step: Step | None = None

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def is_done(self) -> bool:
        return self.status == DONE

    def __str__(self) -> str:
        return f"{self.status}: {', '.join(self.because)}" if self.because else self.status


def survey(steps: Sequence[PlannedStep], record: Record, place: Place) -> list[Standing]:
    """Return how each step stands, in order.

    What a step would make is known where all its inputs are done, and what it reads outside the run is there.
    """
    before = record.entries()
    made: dict[str, Made] = {}
    standings: list[Standing] = []
    for planned in in_order(steps):
        standing = _standing(planned, before.get(planned.name, {}), made, place)
        if standing.step and standing.is_done:
            made[planned.name] = Made(standing.step.stage, planned.kind.answer)
        standings.append(standing)
    return standings


def _standing(planned: PlannedStep, entry: Mapping[str, Any], made: Mapping[str, Made], place: Place) -> Standing:
    """Return how a step stands; entry: what the run's file says of it."""
    status = AS_BEFORE.get(entry.get("status", ""), TO_DO)
    was_done = entry.get("status") in (DONE, STALE)
    because = tuple(f"{name} is not done" for name in planned.needs if name not in made)
    step = None
    if not because:
        try:
            step = open_step(planned, made, place)
        except UsageError as error:  # of a file or model that is gone; whoever does the step says so too
            because = (str(error).removeprefix(f"{planned.name}: "),)
    if step is None:
        return Standing(planned, STALE, because) if was_done else Standing(planned, status)
    if step.stage.is_done():
        try:
            check_result(planned, step.stage)
        except StageError as error:
            return Standing(planned, FAILED, (str(error),), step)
        return Standing(planned, DONE, (), step)
    edits = tuple(changes(entry.get("identity"), step.stage.identity))
    if not edits and step.stage.is_behind():
        edits = (BEHIND,)
    return Standing(planned, STALE if edits else status, edits, step)


def note(standings: Sequence[Standing], record: Record) -> None:
    """Write down how every step stands."""
    for standing in standings:
        if standing.step and standing.is_done:
            record.write_step(standing.planned, standing.step.stage, DONE)
        else:
            record.write_standing(standing.name, standing.status, standing.because)
