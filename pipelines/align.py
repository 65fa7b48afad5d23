"""Align a table of responses with a squad: score each, rewrite those that fall short, keep what is better.

    python -m pipelines.align runs/mine/respond/1a2b3c --config align.yaml -o runs/mine

This is the stage alone: `align.yaml` has the squad's members and rules, and the table is one that a stage made.
`alignbeam align` (pipelines.commands.align) takes a corpus of any form and a squad file or flags, and scores all rows
first where the routing asks for it. The step leaves a `squad.yaml` beside its manifest, which `alignbeam align --squad`
takes.

A table that is aligned already is aligned again: its aligned text is the response then (transforms.alignment.layers).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import Outlook, Prospect, with_answers
from pipelines.runtime.squads import SquadConfig, check_packs, outside, rewrite_estimates, squad_of_step
from pipelines.runtime.step import Schemas, StageKind, Step, always, complete_step
from pipelines.runtime.steps import followed_digest
from schemas import tables
from schemas.errors import UsageError
from schemas.fields import takes
from schemas.squads import rules_of, squad_yaml
from transforms.alignment.align import Align
from transforms.alignment.layers import check_responses, read_answer, with_layer
from transforms.alignment.members import members_of
from transforms.alignment.orders import AddOrders, by_corpus_mean, by_sorted_batches
from transforms.alignment.scoring import arrange_scores
from transforms.alignment.trajectories import SplitAligned
from transforms.engines.inspector import inspector_digest
from transforms.tables import storage
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.columns import bring_back, set_aside
from transforms.tables.read import JoinRows, ReadTable
from transforms.tables.table import Table, read_manifest, read_table

SQUAD_FILE = "squad.yaml"
READ = tables.RESPONSES.names  # of the responses; their other columns pass through


@dataclass(frozen=True, kw_only=True)
class Config(SquadConfig):
    """scores: what a `score` step made of the same responses; with it they are not scored once more."""

    scores: str = takes("their scores (routings corpus-mean and paper-002)", "id", "scores", default="")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.needs_all_scores and not self.scores:
            raise ValueError(
                f"scores: routing {self.routing} needs the scores of all rows; add a `score` step with the same "
                "responses and the members' inspectors, and name it"
            )


def tables_of(config: Config, responses: pa.Schema, answer: str) -> Schemas:
    criteria = tuple(member.criterion for member in config.members)
    return {
        "aligned": tables.aligned(with_layer(responses, answer), criteria),
        "trajectories": tables.TRAJECTORIES,
        "rejects": tables.with_error(tables.RESPONSES),
    }


def gives(config: Config, inputs: Mapping[str, pa.Schema]) -> Schemas:
    """Return the schemas of the tables; UsageError where a column is in the way."""
    if "responses" not in inputs:
        return {}
    responses = inputs["responses"]
    answer = config.answer_in(responses)
    if answer not in responses.names:
        return {}
    check_responses(str(config.responses), responses, answer, is_chosen=config.is_answer_chosen)
    return tables_of(config, responses, answer)


def transform_of(config: Config, step: Step) -> Align:
    """Return the transform with the squad's models; UsageError as in `members_of`."""
    members = members_of(config.members, step.models, config.sampling)
    cache = step.place.cache_directory
    return Align(members, rules_of(config), seed=config.seed, cache=cache, bf16=config.bf16)


def read_scores(config: Config, step: Step, align: Align) -> Table | None:
    """Return the scores that the step takes, if any, their shards numbered as those of the responses.

    Raises UsageError where they are of other rows, or not by the members' inspectors.
    """
    if not config.scores:
        return None
    responses, scores = step.table("responses"), step.table("scores").head(config.limit)
    manifest = read_manifest(scores.path)
    has_all = [shard.rows for shard in scores.shards] == [shard.rows for shard in responses.shards]
    if not has_all or not _is_of(responses, step.answers["responses"], manifest):
        raise UsageError(f"scores: {scores.path}: has other rows than {responses.path}; score that table anew")
    scored = {criterion.name for criterion in scores.schema.field("scores").type}
    inspectors = manifest.get("identity", {}).get("inspectors", {})
    for member in align.members:
        if not member.inspector:
            continue
        digest = inspector_digest(member.inspector)
        if member.criterion not in scored or inspectors.get(member.criterion, digest) != digest:
            raise UsageError(
                f"scores: {scores.path}: the inspector of {member.criterion!r} did not score these rows; "
                "name it among the inspectors of that `score` step"
            )
    pairs = zip(scores.shards, responses.shards, strict=True)
    return replace(scores, shards=tuple(replace(shard, index=ours.index) for shard, ours in pairs))


def _is_of(responses: Table, answer: str, manifest: dict) -> bool:
    """Return whether a manifest of scores says that they are of these responses, as far as it says so.

    Rows of the same ids can have other texts, such as the answers of two models.
    """
    identity = manifest.get("identity", {})
    of_table = identity.get("responses")
    if not isinstance(of_table, dict) or "inputs" not in manifest:
        return True
    whole = read_table(responses.path).head(identity.get("limit"))
    return of_table.get("answer") == answer and manifest["inputs"] in map(followed_digest, (responses, whole))


@dataclass(frozen=True)
class SplitCorpus:
    """The tables of SplitAligned, `aligned` with the responses' other columns as they came."""

    rounds: int
    names: Mapping[int, str]

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        parts = SplitAligned(self.rounds, self.names)(chunk)
        return parts | {"aligned": bring_back(parts["aligned"])}


def build(
    align: Align, scores: Table | None, config: Config, step: Step, root: beam.Pipeline, skip: frozenset[int]
) -> None:
    responses, answer = step.table("responses"), step.answers["responses"]
    chunks = (
        root
        | "Read" >> ReadTable(responses, skip=skip)
        | "Answer" >> MapBatches(partial(read_answer, answer=answer))
        | "SetAside" >> MapBatches(partial(set_aside, used=READ))
    )
    if scores:
        align = replace(align, scored=True)
        chunks = (
            chunks
            | "Scores" >> JoinRows(scores, ("scores",))
            | "ArrangeScores" >> MapBatches(partial(arrange_scores, members=align.members))
        )
    if scores and align.rules.routing == "corpus-mean":
        align = replace(align, order=by_corpus_mean(scores, align.members))
    if scores and align.rules.routing == "paper-002":
        chunks = chunks | "Orders" >> AddOrders(by_sorted_batches(responses, scores, align.members, answer))
    split = SplitCorpus(align.rounds, {index: target.name for index, target in responses.targets.items()})
    write = step.write(tables_of(config, responses.schema, answer), responses, split)
    chunks | "Align" >> align | "Write" >> write


def do(config: Config, step: Step) -> None:
    """Align the rows, or what is left of them."""
    responses = step.table("responses")
    align = transform_of(config, step)
    check_responses(responses.path, responses.schema, step.answers["responses"], is_chosen=config.is_answer_chosen)
    scores = read_scores(config, step, align)
    with storage.open_output(storage.join(step.stage.directory, SQUAD_FILE)) as file:
        file.write(squad_yaml(squad_of_step(config, step)).encode())
    complete_step(config, step, build=partial(build, align, scores), over="responses")


def estimate(config: Config, prospect: Prospect) -> Outlook:
    """Return an estimate for each member, as if every row were rewritten; how many will be is known only later."""
    turns = config.rounds or len(config.members)
    return Outlook(
        prospect.rows.get("responses"),
        tuple(rewrite_estimates(config, prospect, turns / len(config.members))),
        prospect.likely.get("responses"),
        with_answers(prospect, "responses", config.sampling.max_tokens, KIND.answer),
    )


KIND = StageKind(
    name="align",
    about="a squad of inspectors and aligners: score each response, rewrite what falls short, keep what is better",
    config=Config,
    do=do,
    gives=gives,
    answer="aligned",
    outside=outside,
    check=check_packs,
    estimate=estimate,
    runs_models=always,
    grows=lambda config: not config.needs_all_scores,
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
