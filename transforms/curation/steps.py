"""Steps that compare rows with each other, one after the other, each about what those before it left in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from transforms.curation.decisions import OpenShards, decisions_of
from transforms.tables.chunks import Chunk, Keyed
from transforms.tables.table import Table


class Step(NamedTuple):
    """A step by the name that progress shows, the columns that it reads, and the transform that decides.

    The transform takes chunks of the rows that are still in, read anew: these columns, or all for None. A step that
    reads none (`[]`) takes a pair instead: the judged chunks, whose words are hashed once for all, and the decisions so
    far.
    """

    name: str
    columns: list[str] | None
    transform: beam.PTransform


@dataclass
class DecideInOrder(beam.PTransform):
    """Turn judged chunks into decisions: first those that the chunks carry, then those of every step in order."""

    table: Table
    steps: Sequence[Step]

    def expand(self, judged: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        decisions: tuple[beam.PCollection[Keyed], ...]
        decisions = (judged | "Judged" >> beam.FlatMap(decisions_of).with_output_types(Keyed),)
        for name, columns, transform in self.steps:
            so_far = decisions | f"{name}: so far" >> beam.Flatten()
            rows = (judged, so_far)
            if columns is None or columns:
                rows = so_far | f"{name}: open" >> OpenShards(self.table, name, columns)
            decisions = (*decisions, rows | name >> transform)
        return decisions | "All" >> beam.Flatten()
