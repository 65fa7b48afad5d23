"""Members and policy: who rewrites what, whose turn it is, and which rewrites stay."""

from dataclasses import dataclass
from typing import Literal

from schemas.criteria.pack import Pack
from transforms.generation.generate import Model

Routing = Literal["worst", "in_turn"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A criterion with the inspector that scores it and the model that rewrites what it scores below `threshold`.

    inspector: folder of a trained inspector. model: a trained aligner, or, where `pack` is given, a large model that
    is prompted with the pack's principles (paper 000, app. D).
    """

    criterion: str
    inspector: str
    model: Model
    pack: Pack | None = None
    threshold: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Whose turn it is, how often, and which rewrites stay.

    routing: `worst` takes the lowest score below its threshold among the members not tried on this text; `in_turn`
        goes by the column `order` (lists of members' numbers, from 0), else by `order`, else as the members stand.
    steps: turns that a row has at most.
    every_row: rewrite whatever the score.
    guard: keep a rewrite only if its own score rises, by at least `margin`, and no other falls by more than `max_loss`.
    fixed_length: all rewrites have the sampling's limit of tokens, and one that is cut off there may stay (paper 002).
    """

    routing: Routing = "worst"
    steps: int = 1
    order: tuple[int, ...] = ()
    every_row: bool = False
    guard: bool = True
    margin: float = 0.0
    max_loss: float = 1.0
    fixed_length: bool = False
