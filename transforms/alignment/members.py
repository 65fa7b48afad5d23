"""Members of a squad with their models, as the transforms take them.

What a squad file names, such as folders of models, is checked here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.criteria.pack import Pack, load_pack
from schemas.errors import UsageError
from schemas.settings import validated
from schemas.squads import Squad, SquadMember, is_folder
from transforms.engines.engine import EngineConfig, Sampling
from transforms.engines.identity import engine_digest
from transforms.engines.inspector import check_inspector
from transforms.engines.weights import Weights, find_weights
from transforms.generation.generate import Model
from transforms.synthesis.triples import TRIPLE_STOP


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


def members_of(squad: Squad, engine: dict[str, Any], model: str, sampling: Sampling) -> tuple[Member, ...]:
    """Return the members with their models: adapters share the engine of their base.

    engine: settings of transforms.engines.engine.EngineConfig for all. model: who is prompted, where a member names no
    model of its own. UsageError, naming the member, where a folder is no model or no inspector, a pack is broken, or
    adapters have different bases.
    """
    members: list[Member] = []
    adapters = adapters_of(squad, engine)
    folders = tuple(sorted(weights.adapter for weights in adapters.values() if weights.adapter))
    for member in squad.members:
        try:
            pack = load_pack(member.pack) if member.pack else None
            settings = {**engine, **member.engine}
            if own := adapters.get(member.criterion):
                settings |= {"model": own.model, "adapters": folders}
            else:
                settings["model"] = member.engine.get("model", model) if pack else member.aligner
            config = validated(EngineConfig, "engine", settings)
            engine_digest(config)
        except UsageError as error:
            raise UsageError(f"{member.criterion}: {error}") from error
        drawn = replace(sampling, stop=sampling.stop or TRIPLE_STOP) if pack else sampling
        adapter = own.adapter if own and own.adapter else ""
        members.append(
            Member(
                criterion=member.criterion,
                inspector=member.inspector,
                model=Model(engine=config, sampling=drawn, adapter=adapter),
                pack=pack,
                threshold=member.threshold,
            )
        )
    return tuple(members)


def adapters_of(squad: Squad, engine: dict[str, Any]) -> dict[str, Weights]:
    """Return the LoRA adapters among the aligners, by criterion.

    UsageError as in `members_of`, of inspectors and adapters.
    """
    adapters: dict[str, Weights] = {}
    for member in squad.members:
        try:
            check_inspector(member.inspector)
            if weights := adapter_of(member, engine):
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


def adapter_of(member: SquadMember, engine: dict[str, Any]) -> Weights | None:
    """Return the folders of an aligner that is a LoRA adapter and of its base.

    It is None for any other aligner.
    """
    if {**engine, **member.engine}.get("engine", "vllm") != "vllm" or not is_folder(member):
        return None
    weights = find_weights(member.aligner)
    if weights.adapter is None:
        return None
    base = Path(weights.model)
    return weights._replace(
        model=str(base.resolve()) if base.is_dir() else weights.model, adapter=str(Path(weights.adapter).resolve())
    )
