"""Align responses with a squad: score, rewrite what falls short, score again, keep what is better; and so on.

Every row has a turn of one member at each step: of the one whose criterion it meets least (`worst`), or of the next in
an order (paper 002 takes criteria by ascending mean score). A member rewrites the rows below its threshold (paper 000,
section 2), and a guard refuses what does not raise its score, or lowers another too far. All inspectors score every
rewrite, so that a trajectory shows what one aligner did to another criterion.

A batch carries the row's state in columns of its own until `sum_up`: `aligned` (the text as it stands), `scores`,
`tried` (members without effect on that text, as bits), and one struct `step_<n>` per step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import apache_beam as beam

from schemas.squads import SquadRules
from transforms.alignment.guard import apply_guard, propose
from transforms.alignment.members import Member
from transforms.alignment.routing import route, start_state
from transforms.alignment.scoring import Score
from transforms.alignment.trajectories import start_trajectory, sum_up
from transforms.generation.generate import Generate
from transforms.tables.chunks import Chunk, MapBatches


@dataclass
class Align(beam.PTransform):
    """Align chunks with `id`, `question` and `response`: add what `sum_up` adds, and remove no row.

    order: members' numbers, from 0, by turns, where the routing has one order for all rows; default: as they stand.
    scored: chunks have `scores`, and are not inspected again before the first step.
    bf16: inspectors score in bfloat16.
    """

    members: Sequence[Member]
    rules: SquadRules = field(default_factory=SquadRules)
    order: tuple[int, ...] = ()
    seed: int = 0
    cache: str | None = None
    scored: bool = False
    bf16: bool = False

    @property
    def rounds(self) -> int:
        """Return how many turns a row has at most."""
        return len(self.order) or self.rules.rounds or len(self.members)

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        members, rules, order = self.members, self.rules, self.order
        inspectors = {member.criterion: member.inspector for member in members}
        models = {member.criterion: member.model for member in members}
        chunks = chunks | "StartState" >> MapBatches(start_state)
        if not self.scored:
            chunks = chunks | "ScoreResponse" >> Score(inspectors, "response", "scores", "score responses", self.bf16)
        chunks = chunks | "StartTrajectory" >> MapBatches(start_trajectory)
        for step in range(1, self.rounds + 1):
            chunks = (
                chunks
                | f"Route{step}" >> MapBatches(partial(route, members=members, rules=rules, step=step, order=order))
                | f"Rewrite{step}" >> Generate(models, f"rewrite {step}", self.seed, self.cache)
                | f"Propose{step}" >> MapBatches(partial(propose, members=members))
                | f"ScoreRewrite{step}"
                >> Score(inspectors, "candidate", "candidate_scores", f"score rewrites {step}", self.bf16)
                | f"ApplyGuard{step}" >> MapBatches(partial(apply_guard, members=members, rules=rules, step=step))
            )
        return chunks | "SumUp" >> MapBatches(partial(sum_up, rounds=self.rounds))
