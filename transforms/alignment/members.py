"""Members of a squad with their models, as the transforms take them."""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.criteria.pack import Pack
from schemas.squads import SquadMember
from transforms.generation.generate import Model


@dataclass(frozen=True, kw_only=True)
class Member:
    """A SquadMember with its model: the criterion, its inspector, and who rewrites what scores below `threshold`.

    inspector: folder of a trained inspector. model: a trained aligner, or, where `pack` is given, a large model that
    is prompted with the pack's principles (paper 000, app. D).
    """

    criterion: str
    inspector: str
    model: Model
    pack: Pack | None = None
    threshold: float = SquadMember.threshold


def criteria_of(members: Sequence[Member]) -> tuple[str, ...]:
    return tuple(member.criterion for member in members)
