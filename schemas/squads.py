"""Squad files: criteria, each with its inspector and its aligner, and how rows go from one to the next.

    routing: worst
    members:
      - {criterion: ethical, inspector: ethical/inspector, aligner: ethical/adapter}
      - {criterion: factual, inspector: factual/inspector, aligner: factual/adapter, threshold: 0.6}

Folders are looked for beside the file first. The docs (docs/squads.md) say what every setting means.

The rules are declared here alone, and are called the same in a squad file, in the flags of `alignbeam align`, in an
`align` step of a recipe and in transforms.alignment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import fsspec
import yaml

from schemas.criteria.pack import pack_names
from schemas.errors import UsageError
from schemas.fields import pack, setting, uses
from schemas.settings import Layer, read_yaml, resolve, to_dict

PROMPTED = "prompted"
MAX_MEMBERS = 64  # bits in which a row notes whom it has tried
Routing = Literal["worst", "fixed", "corpus-mean", "paper-002"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which rows are rewritten, and which rewrites stay, whether there is one criterion or many.

    guard: keep a rewrite only if its own score rises, by `guard_margin`, and no other falls by more than
        `guard_max_loss`. None leaves it to the routing: `has_guard` of SquadRules.
    """

    every_row: bool = setting("rewrite every row, not only those below the threshold", False)
    guard: bool | None = setting("refuse a rewrite that does not raise its inspector's score (the default)", None)
    guard_margin: float = setting("what a rewrite's score must gain for the guard to let it pass", 0.0)
    guard_max_loss: float = setting("what the score of any other criterion may lose", 0.05)

    def __post_init__(self) -> None:
        for name in ("guard_margin", "guard_max_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be between 0 and 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class SquadRules(Rules):
    """The rules, and whose turn it is where there are several members.

    routing: `worst`: each row goes to the aligner of its lowest score below threshold, until all are met, `rounds` are
        used up or nothing helps; `fixed`: once to each, in the order of the members; `corpus-mean`: in the order of
        their mean scores over the whole corpus, lowest first; `paper-002`: as there, by the means of batches of 64 rows
        that lie side by side when sorted, with no guard and all thresholds at 0.5.
    rounds: rewrites that a row is given at most (worst); 0 is one for each member.
    """

    routing: Routing = "worst"
    rounds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.routing not in get_args(Routing):
            raise ValueError(f"routing: must be one of {', '.join(get_args(Routing))}, not {self.routing!r}")
        if self.rounds < 0 or (self.rounds and self.routing != "worst"):
            raise ValueError(f"rounds: must be positive, and is for routing worst alone, not {self.rounds}")
        if self.guard and self.routing == "paper-002":
            raise ValueError("guard: routing paper-002 has none; leave guard out, or choose another routing")

    @property
    def has_guard(self) -> bool:
        """Return whether the guard stands.

        Where `guard` says nothing, it stands in all routings but paper 002's.
        """
        return self.routing != "paper-002" if self.guard is None else self.guard

    @property
    def has_fixed_length(self) -> bool:
        """Return whether rewrites have the sampling's limit of tokens (paper 002).

        One that is cut off there may stay then.
        """
        return self.routing == "paper-002"

    @property
    def needs_all_scores(self) -> bool:
        """Return whether the order of turns follows from the scores of all rows."""
        return self.routing in ("corpus-mean", "paper-002")


@dataclass(frozen=True, kw_only=True)
class AlignMember:
    """A criterion: who scores it, and who rewrites what scores below `threshold`.

    inspector: may be left out where no score decides anything (`check_members`). pack: where there is one, the aligner
    is a large model that is shown the pack's principles (paper 000, app. D).
    """

    criterion: str
    inspector: str = uses("inspector", "who scores the criterion", "")
    aligner: str = uses("generator", "who rewrites")
    threshold: float = 0.5
    pack: str = pack("criterion pack, whose principles a prompted aligner is shown", default="")

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: must be between 0 and 1, not {self.threshold}")
        if not self.criterion or self.criterion[0] in ".[" or "/" in self.criterion:
            raise ValueError(f"criterion: {self.criterion!r} is no name; letters, digits, - and _ are safe")


@dataclass(frozen=True, kw_only=True)
class SquadMember(AlignMember):
    """A member as a squad file names it, its models by their folders.

    aligner: folder of a LoRA adapter or of a whole model, the name of a served model (with `engine`), or `prompted`, a
    large model that is shown the principles of `pack`. engine: settings of an engine of its own.
    """

    engine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.aligner == PROMPTED) != bool(self.pack):
            raise ValueError(f"pack: a {PROMPTED} aligner needs one, and no other has one ({self.criterion})")


@dataclass(frozen=True, kw_only=True)
class Squad(SquadRules):
    """Members in order, and the rules."""

    members: tuple[SquadMember, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_members(self, self.members)


def check_members(rules: SquadRules, members: Sequence[AlignMember]) -> None:
    """Raise ValueError where members do not go together, or not with the rules."""
    if not members:
        raise ValueError("members: a squad has at least one")
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"members: a squad has at most {MAX_MEMBERS}, not {len(members)}")
    numbers: dict[str, int] = {}
    for number, member in enumerate(members, 1):
        if member.criterion in numbers:
            raise ValueError(
                f"members: {numbers[member.criterion]} and {number} have one criterion, {member.criterion!r}"
            )
        numbers[member.criterion] = number
        if rules.routing == "paper-002" and member.threshold != AlignMember.threshold:
            raise ValueError(
                f"threshold: routing paper-002 has {AlignMember.threshold} for all, not {member.threshold} "
                f"({member.criterion}); leave threshold out, or choose another routing"
            )
        if not member.inspector and (need := need_of_scores(rules, len(members))):
            raise ValueError(f"inspector: criterion {member.criterion!r} has none, and {need}")


def need_of_scores(rules: SquadRules, members: int) -> str:
    """Return which rule looks at every criterion's scores, and what to do; "" where none does."""
    if not rules.every_row:
        return "rows below its threshold are chosen by their scores; name one, or set every_row: true"
    if rules.has_guard:
        return "the guard compares scores; name one, or set guard: false"
    if rules.needs_all_scores or (rules.routing != "fixed" and members > 1):
        return f"routing {rules.routing} goes by scores; name one, or set routing: fixed"
    return ""


def rules_of(rules: SquadRules) -> SquadRules:
    """Return the rules of a Config alone."""
    return SquadRules(**{item.name: getattr(rules, item.name) for item in fields(SquadRules)})


def squad_of(rules: Rules, members: Sequence[SquadMember], **more: Any) -> Squad:
    """Return the squad of these members under the rules of a recipe or of flags.

    `more` names further ones.
    """
    named = {item.name: getattr(rules, item.name) for item in fields(SquadRules) if hasattr(rules, item.name)}
    return Squad(members=tuple(members), **{**named, **more})


def load_squad(path: str) -> Squad:
    """Read a squad's YAML file, with folders found beside it.

    UsageError names what is wrong with it, and where.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected settings by name, found {type(values).__name__}")
    squad: Squad = resolve(Squad, [Layer(path, values)]).config
    home = path.rpartition("/")[0]

    def resolved(folder: str) -> str:
        beside = f"{home}/{folder}"
        return beside if home and folder and "://" not in folder and _exists(beside) else folder

    def engine_of(member: SquadMember) -> dict[str, Any]:
        is_served = member.engine.get("engine", "vllm") != "vllm"
        model = member.engine.get("model")
        return member.engine if is_served or not model else {**member.engine, "model": resolved(model)}

    members = (
        replace(
            member,
            inspector=resolved(member.inspector),
            aligner=resolved(member.aligner) if is_folder(member) else member.aligner,
            pack=member.pack if member.pack in pack_names() else resolved(member.pack),
            engine=engine_of(member),
        )
        for member in squad.members
    )
    return replace(squad, members=tuple(members))


def squad_yaml(squad: Squad) -> str:
    """Return the text of a squad's file.

    It has all its rules, and of each member what differs from the default.
    """
    values = to_dict(replace(squad, guard=squad.has_guard))
    defaults = {item.name: item.default for item in fields(SquadMember)}
    members = [
        {name: value for name, value in member.items() if value not in (defaults[name], {})}
        for member in values.pop("members")
    ]
    return yaml.safe_dump({**values, "members": members}, sort_keys=False)


def is_folder(member: SquadMember) -> bool:
    """Return whether the aligner is a folder of this machine, not a prompted or a served model."""
    return member.aligner != PROMPTED and member.engine.get("engine", "vllm") == "vllm"


def _exists(path: str) -> bool:
    fs, local = fsspec.core.url_to_fs(path)
    return fs.exists(local)
