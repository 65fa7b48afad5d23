"""What a recipe's YAML file says, with the flags of `alignbeam run`, and its parts for each criterion of a squad."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.align import Settings as AlignSettings
from pipelines.curate import Settings as CurateSettings
from pipelines.evaluate import JudgeSettings
from pipelines.questions import Settings as QuestionSettings
from pipelines.respond import Settings as RespondSettings
from pipelines.runtime.trainers import ADAPTER, TRAINERS
from pipelines.triples import Settings as TripleSettings
from schemas.command_line import check_limit, setting
from schemas.errors import UsageError
from schemas.names import check_name
from schemas.settings import Layer, resolve, to_dict, validated
from schemas.squads import Squad, SquadMember, SquadRules, squad_of
from transforms.engines.engine import EngineConfig
from transforms.tables import storage

STAGES = (
    "questions",
    "triples",
    "curate",
    "train_inspector",
    "train_aligner",
    "respond",
    "align",
    "align_compared",
    "evaluate",
    "evaluate_compared",
    "report",
)
OF_ONE_CRITERION = (*STAGES[:5], "report")  # of each run below a squad's
OF_A_SQUAD = STAGES[5:]
COMPARED = ("align_compared", "evaluate_compared")  # where stages.align.compare is set


@dataclass(frozen=True, kw_only=True)
class Models:
    """Settings of transforms.engines.engine.EngineConfig for each model that generates.

    teacher writes questions and triples; upstream answers the held-out questions; aligner holds how the trained aligner
    is run (its `model` is the trained one).
    """

    teacher: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, Any] = field(default_factory=dict)
    aligner: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(JudgeSettings):
    """How an aligned corpus is judged."""

    two_way: tuple[str, ...] = setting("file of items with columns prompt, chosen, rejected; may be repeated", ())


@dataclass(frozen=True, kw_only=True)
class AlignStage(AlignSettings, SquadRules):
    """How the responses are aligned; routing and rounds are for several criteria.

    threshold: of every criterion. compare: what of these settings is different when the same responses are aligned once
    more, to compare.
    """

    threshold: float = SquadMember.threshold
    compare: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.squad([SquadMember(criterion="every criterion", inspector="any", aligner="any")])
        if self.compare:
            self.compared()

    def squad(self, members: Sequence[SquadMember]) -> Squad:
        """Return the squad of these members, with the threshold and the rules that are set here."""
        return squad_of(self, [replace(member, threshold=self.threshold) for member in members])

    def compared(self) -> "AlignStage":
        if "compare" in self.compare:
            raise ValueError("compare: has no comparison of its own")
        settings = {**to_dict(replace(self, compare={})), **self.compare}
        return validated(AlignStage, "stages.align.compare", settings)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What each stage may be told; a trainer's settings are those of training.inspector and training.aligner."""

    questions: QuestionSettings = field(default_factory=QuestionSettings)
    triples: TripleSettings = field(default_factory=TripleSettings)
    curate: CurateSettings = field(default_factory=CurateSettings)
    train_inspector: dict[str, Any] = field(default_factory=dict)
    train_aligner: dict[str, Any] = field(default_factory=dict)
    respond: RespondSettings = field(default_factory=RespondSettings)
    align: AlignStage = field(default_factory=AlignStage)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe's YAML file says."""

    name: str
    criterion: str | tuple[str, ...]  # a pack, its name or a file; several make a squad
    seed: int = 0
    toy: bool = False  # the models prove that the job works, not how well it does; the report says so
    heldout: str | None = None  # questions to evaluate on: a file or table; default, of one criterion: the test split
    models: Models = field(default_factory=Models)
    stages: StageSettings = field(default_factory=StageSettings)
    stages_of: dict[str, Any] = field(default_factory=dict)  # by a criterion's name: settings that are its own


@dataclass(frozen=True, kw_only=True)
class Config(Recipe):
    output: str = setting("run directory", short="-o")
    model: str | None = setting("teacher and upstream model, whatever the recipe names: a folder or a hub id", None)
    limit: int | None = setting("at most so many questions, in all stages; a larger one later extends the run", None)
    only: str | None = setting(f"run one stage: {', '.join(STAGES)}", None)
    plan: bool = setting("say what the recipe would cost, and stop", False)
    retry_failed: bool = setting("ask again for the rows that failed", False)

    def __post_init__(self) -> None:
        if self.only is not None and self.only not in STAGES:
            raise ValueError(f"only: no stage {self.only!r}; one of {', '.join(STAGES)}")
        check_limit(self.limit)
        if self.only in COMPARED and not self.stages.align.compare:
            raise ValueError(f"only: {self.only} needs stages.align.compare")
        if isinstance(self.criterion, str):
            if self.stages_of:
                raise ValueError("stages_of: is for several criteria; say it in stages")
            if (self.stages.align.routing, self.stages.align.rounds) != ("worst", 0):
                raise ValueError("stages.align: routing and rounds are for several criteria")
        elif len(self.criterion) < 2:
            raise ValueError("criterion: a list has at least two packs; name a single one without it")
        elif self.heldout is None:
            raise ValueError(
                "heldout: several criteria need questions of their own; what is held out of one may train another"
            )
        for name in ("teacher", "upstream"):
            engine = getattr(self.models, name)
            if not (self.model or engine.get("model") or engine.get("engine") == "scripted"):
                raise ValueError(f"models.{name}.model: the recipe names no model; give one with --model")
        for name in ("teacher", "upstream", "aligner"):
            self.engine(name)
        for name, trainer in TRAINERS.items():
            own = getattr(self.stages, f"train_{name}")
            own = {**ADAPTER, **own} if name == "aligner" and self.is_squad else own
            validated(trainer, f"stages.train_{name}", {**own, "data": "curated", "output": "trained"})

    @property
    def is_squad(self) -> bool:
        return not isinstance(self.criterion, str)

    @property
    def criteria(self) -> tuple[str, ...]:
        return (self.criterion,) if isinstance(self.criterion, str) else self.criterion

    def engine(self, name: str) -> dict[str, Any]:
        """Return the engine settings of `teacher`, `upstream` or `aligner`, checked; --model wins over the recipe."""
        engine = getattr(self.models, name)
        model = "the trained aligner" if name == "aligner" else self.model or engine.get("model", "")
        return to_dict(validated(EngineConfig, f"models.{name}", {**engine, "model": model}))


def parted(config: Config, names: Sequence[str]) -> Iterator[Config]:
    """Yield the recipes of a squad's criteria.

    Each has a directory of its own, and an aligner that is an adapter. Raises UsageError where two are called alike, or
    `stages_of` names none of them or a setting that there is not.
    """
    if len(set(names)) < len(names):
        raise UsageError(f"criterion: two packs have one name: {', '.join(names)}")
    if unknown := config.stages_of.keys() - set(names):
        raise UsageError(f"stages_of: no criterion {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    shared = to_dict(replace(config.stages, align=AlignStage()))
    shared["train_aligner"] = ADAPTER | shared["train_aligner"]
    for name, criterion in zip(names, config.criteria, strict=True):
        own = config.stages_of.get(name, {})
        if wrong := own.keys() & set(OF_A_SQUAD):
            raise UsageError(f"stages_of.{name}: {', '.join(sorted(wrong))}: is done once, for all criteria")
        layers = [Layer("stages", shared, typed=True), Layer(f"stages_of.{name}", own, typed=True)]  # seen already
        stages_of_one = resolve(StageSettings, layers).config
        yield replace(
            config,
            criterion=criterion,
            output=storage.join(config.output, check_name(name, f"criterion pack {criterion}")),
            only=config.only if config.only in OF_ONE_CRITERION else None,
            stages=stages_of_one,
            stages_of={},
        )
