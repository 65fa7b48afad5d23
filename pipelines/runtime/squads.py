"""What the stage kinds share that take a squad: settings, what decides beside them, costs, and the squad's file."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.runtime.estimates import Estimate, Prospect, Sample, estimated, prompts_of
from pipelines.runtime.step import Outside, Step
from schemas.command_line import check_limit
from schemas.criteria.pack import load_pack, pack_names
from schemas.fields import Seed, setting, takes
from schemas.settings import to_dict
from schemas.squads import PROMPTED, AlignMember, Squad, SquadMember, SquadRules, check_members, squad_of
from transforms.alignment.layers import guess_answer
from transforms.alignment.routing import LIMIT_STEP, room_for
from transforms.engines.engine import EngineConfig, Sampling
from transforms.prompts import template_digest
from transforms.synthesis.triples import rewrite_prompts
from transforms.tables import storage
from transforms.tables.chunks import NOTHING_ASKED
from transforms.training_data.aligner_format import aligner_prompt


@dataclass(frozen=True, kw_only=True)
class SquadConfig(SquadRules):
    """Responses, and the members and rules of the squad that rewrites them."""

    responses: str | dict[str, str] = takes("table of responses", "id", "question", answer=True, positional=True)
    members: tuple[AlignMember, ...]
    bf16: bool = setting("inspectors score in bfloat16: faster, and within 0.01 of float32", False)
    sampling: Sampling = field(default_factory=Sampling)
    limit: int | None = setting("only the first N rows", None, limits="responses")
    seed: Seed = setting("integer seed of everything that is sampled", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limit(self.limit)
        check_members(self, self.members)

    @property
    def is_answer_chosen(self) -> bool:
        """Return whether it says itself which column of the responses is the answer."""
        return isinstance(self.responses, Mapping)

    def answer_in(self, schema: pa.Schema) -> str:
        """Return the column that is the answer, as far as settings and columns tell."""
        return self.responses["answer"] if isinstance(self.responses, Mapping) else guess_answer(schema)


def outside(config: SquadConfig) -> Outside:
    """Return whether the guard stands, which may follow from the routing; and the wording of prompted rewrites."""
    wording = {"template": template_digest("rewrite")} if any(member.pack for member in config.members) else {}
    return Outside({"guard": config.has_guard, **wording})


def check_packs(config: SquadConfig) -> None:
    for member in config.members:
        if member.pack:
            load_pack(member.pack)


def rewrite_estimates(config: SquadConfig, prospect: Prospect, times: float, most: int | None = None) -> list[Estimate]:
    """Return one estimate per member, as if each rewrote every row so many times; most: rows, where not all.

    After a smaller run the members share what that was asked: how much of it each was is not known.
    """
    rows, likely = (_least(known.get("responses"), most) for known in (prospect.rows, prospect.likely))
    sample, answer = prospect.samples.get("responses"), prospect.answers.get("responses", "response")
    measured, asked = prospect.measured, NOTHING_ASKED
    if measured and measured.rows:
        asked = measured.asked
        likely = None if likely is None else likely * asked.requests / measured.rows / len(config.members)
    return [
        estimated(
            prospect,
            f"members.{number}.aligner",
            prompts_of(sample, partial(rewriting_prompts, member=member, answer=answer), ("question", answer)),
            requests=None if rows is None else math.ceil(rows * times),
            max_tokens=limits_of(config, sample, answer),
            likely=likely,
            part=f"rewrite {member.criterion}",
            asked=asked,
            is_real=bool(sample and sample.is_real),
        )
        for number, member in enumerate(config.members)
    ]


def limits_of(config: SquadConfig, sample: Sample | None, answer: str) -> list[int]:
    """Return how many tokens the rewrite of each row may have: longer texts may have more than the sampling says.

    Texts that are not there yet may be somewhat longer than those of the sample.
    """
    least = config.sampling.max_tokens
    if config.has_fixed_length or sample is None or not sample.has(answer):
        return [least]
    more = 0 if sample.is_real else LIMIT_STEP
    return [max(least, (tokens or 0) + more) for tokens in room_for(sample.rows.column(answer)).to_pylist()]


def _least(rows: float | None, most: int | None) -> float | None:
    return rows if rows is None or most is None else min(rows, most)


def rewriting_prompts(batch: pa.RecordBatch, member: AlignMember, answer: str) -> list[str]:
    """Return what a member's model would be sent for each row.

    A row that a prompted model is not asked about is left out.
    """
    questions, texts = (batch.column(name).to_pylist() for name in ("question", answer))
    if member.pack:
        columns = {"question": pa.array(questions, pa.string()), "response": pa.array(texts, pa.string())}
        prompts = rewrite_prompts(pa.RecordBatch.from_pydict(columns), load_pack(member.pack)).column("prompt")
        return list(filter(None, prompts.to_pylist()))
    return [aligner_prompt(question or "", text or "") for question, text in zip(questions, texts, strict=True)]


def squad_of_step(config: SquadConfig, step: Step) -> Squad:
    """Return the squad of a step as a file in the step's directory names it."""
    return squad_of(config, [_named(member, number, step) for number, member in enumerate(config.members)])


def _named(member: AlignMember, number: int, step: Step) -> SquadMember:
    engine = step.engine(f"members.{number}.aligner")
    own = _own_settings(engine)
    model = seen_from(engine.model, step) if engine.engine == "vllm" else engine.model
    if member.pack and model:
        own["model"] = model
    return SquadMember(
        criterion=member.criterion,
        inspector=seen_from(step.folder(f"members.{number}.inspector"), step) if member.inspector else "",
        aligner=PROMPTED if member.pack else model or engine.engine,
        threshold=member.threshold,
        pack=member.pack if member.pack in pack_names() else seen_from(member.pack, step),
        engine=own,
    )


def _own_settings(engine: EngineConfig) -> dict[str, Any]:
    """Return what of an engine's settings is not the default, without its model."""
    plain = to_dict(EngineConfig(model="any", adapters=engine.adapters))
    return {name: value for name, value in to_dict(engine).items() if name != "model" and value != plain[name]}


def seen_from(path: str, step: Step) -> str:
    """Return a path as a file in the step's directory names it.

    Within the run it is relative, so that the run can be moved; any other local one is absolute. A hub id, or any name
    that is no path, stays.
    """
    if not path or "://" in path or not storage.exists(path):
        return path
    local = storage.filesystem(path)[1]
    inside = storage.relative(path, step.place.output)
    if os.path.isabs(inside):
        return local
    return "../" * len(storage.relative(step.stage.directory, step.place.output).split("/")) + inside
