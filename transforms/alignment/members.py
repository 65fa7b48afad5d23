"""Members of a squad with their models, as the transforms take them.

Folders of models and packs are checked here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.criteria.pack import Pack, load_pack
from schemas.errors import UsageError
from schemas.squads import AlignMember, Squad, is_folder
from transforms.engines.engine import EngineConfig, Sampling
from transforms.engines.identity import engine_digest
from transforms.engines.inspector import check_inspector
from transforms.engines.weights import Weights, find_weights
from transforms.generation.generate import Model
from transforms.synthesis.triples import TRIPLE_STOP


@dataclass(frozen=True, kw_only=True)
class Member:
    """An AlignMember with its model: the criterion, its inspector, and who rewrites what scores below `threshold`.

    inspector: folder of a trained inspector, empty where the criterion has none. model: a trained aligner, or, where
    `pack` is given, a large model that is prompted with the pack's principles (paper 000, app. D).
    """

    criterion: str
    inspector: str
    model: Model
    pack: Pack | None = None
    threshold: float = AlignMember.threshold


def criteria_of(members: Sequence[Member]) -> tuple[str, ...]:
    return tuple(member.criterion for member in members)


def members_of(
    members: Sequence[AlignMember], models: Mapping[str, EngineConfig | str], sampling: Sampling
) -> tuple[Member, ...]:
    """Return the members with their models: adapters share the engine of their base.

    models: the engine of each aligner and the folder of each inspector, by path: `members.0.aligner`. UsageError,
    naming the criterion, where a folder is no model or no inspector, a pack is broken, or adapters have different
    bases.
    """
    engines = [_engine_of(models, number) for number in range(len(members))]
    inspectors = [str(models.get(f"members.{number}.inspector", "")) for number in range(len(members))]
    aligners = [
        "" if engine.engine != "vllm" or member.pack else engine.model
        for member, engine in zip(members, engines, strict=True)
    ]
    adapters = adapters_among(members, aligners, inspectors)
    adapter_folders = tuple(sorted(weights.adapter for weights in adapters.values() if weights.adapter))
    opened: list[Member] = []
    for member, engine, inspector in zip(members, engines, inspectors, strict=True):
        own = adapters.get(member.criterion)
        try:
            pack = load_pack(member.pack) if member.pack else None
            if own:
                engine = replace(engine, model=own.model, adapters=adapter_folders)
            engine_digest(engine)
        except UsageError as error:
            raise UsageError(f"{member.criterion}: {error}") from error
        drawn = replace(sampling, stop=sampling.stop or TRIPLE_STOP) if pack else sampling
        adapter = own.adapter if own and own.adapter else ""
        opened.append(
            Member(
                criterion=member.criterion,
                inspector=inspector,
                model=Model(engine=engine, sampling=drawn, adapter=adapter),
                pack=pack,
                threshold=member.threshold,
            )
        )
    return tuple(opened)


def _engine_of(models: Mapping[str, EngineConfig | str], number: int) -> EngineConfig:
    engine = models[f"members.{number}.aligner"]
    assert isinstance(engine, EngineConfig)
    return engine


def adapters_of(squad: Squad, engine: Mapping[str, Any]) -> dict[str, Weights]:
    """Return the LoRA adapters among the aligners of a squad file, by criterion.

    engine: settings for all aligners. UsageError as in `members_of`, of inspectors and adapters.
    """
    aligners = [
        member.aligner if is_folder(member) and {**engine, **member.engine}.get("engine", "vllm") == "vllm" else ""
        for member in squad.members
    ]
    return adapters_among(squad.members, aligners, [member.inspector for member in squad.members])


def adapters_among(
    members: Sequence[AlignMember], aligners: Sequence[str], inspectors: Sequence[str]
) -> dict[str, Weights]:
    """Return the folders of the aligners that are LoRA adapters, and of their base, by criterion.

    aligners: folders and hub ids of those that vLLM runs here as they are, "" for the others.
    """
    adapters: dict[str, Weights] = {}
    for member, aligner, inspector in zip(members, aligners, inspectors, strict=True):
        try:
            if inspector:
                check_inspector(inspector)
            if weights := adapter_of(aligner):
                adapters[member.criterion] = weights
                first = next(iter(adapters))
                if weights.model != adapters[first].model:
                    raise UsageError(
                        f"its adapter's base is {weights.model}, that of {first} is {adapters[first].model}; "
                        "adapters share one engine"
                    )
        except UsageError as error:
            raise UsageError(f"{member.criterion}: {error}") from error
    return adapters


def adapter_of(aligner: str) -> Weights | None:
    """Return the folders of an aligner that is a LoRA adapter and of its base; None for any other."""
    weights = find_weights(aligner) if aligner else None
    if weights is None or weights.adapter is None:
        return None
    base = Path(weights.model)
    return weights._replace(
        model=str(base.resolve()) if base.is_dir() else weights.model, adapter=str(Path(weights.adapter).resolve())
    )
