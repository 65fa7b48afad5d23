"""Recipes unrolled: a flat list of steps, one for each item of a group, whose names can be looked up.

Nothing here knows what kinds of stages there are, or what a setting means.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.recipe.placeholders import Placeholders
from pipelines.recipe.read import merged
from schemas.fields import SEEDS
from schemas.file_settings import settings_problems
from schemas.recipe import Path, Place, Places, Problem, Written, near, place_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
NAME_RULE = "is no name; take letters, digits, - and _, at most 80"
LONGEST = 80  # characters of a name; files are called so
BEFORE = "previous"  # the item before, in a reference
REFERENCE_BEFORE = re.compile(rf"{BEFORE}/({NAME.pattern})(\.{NAME.pattern})?")
GROUP_KEYS = ("each", "first", "steps")
MAX_ITEMS = 10_000


@dataclass(frozen=True)
class RawStep:
    """One step as the recipe says it, without `stage` among its settings.

    item, group: of what it is unrolled, or empty. before: the item before, empty in the first. first: what
    `previous/NAME` is there.
    """

    name: str
    stage: str
    settings: dict[str, Any]
    item: str = ""
    group: str = ""
    before: str = ""
    first: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """What a name stands for: a step, or a table of it beside its main one, or a model."""

    name: str
    table: str | None = None
    is_model: bool = False


@dataclass(frozen=True)
class Unrolled:
    """A recipe without groups, placeholders and files that it extends.

    places: by paths such as `("steps", "civic/questions", "count")`. origins: where a text's beginning is written.
    """

    name: str
    seed: int
    toy: bool
    models: dict[str, dict[str, Any]]
    steps: dict[str, RawStep]
    places: Places
    origins: Places

    def origin_of(self, path: Path) -> str:
        """Return the file beside which a relative path is meant; empty if it was typed or comes from Python."""
        place = place_of(self.origins, path)
        return place.source if place and place.line else ""

    def look_up(self, reference: str, step: RawStep | None = None) -> Reference:
        """Return what a name in a step's settings, or elsewhere, stands for; LookupError says what is wrong with it."""
        name, dot, table = reference.partition(".")
        head, slash, inner = name.partition("/")
        if head == BEFORE and slash:
            target = self._look_before(inner, step)
        elif step and step.item and f"{step.item}/{name}" in self.steps:
            target = Reference(f"{step.item}/{name}")
        elif name in self.steps or name in self.models:
            target = Reference(name, is_model=name in self.models)
        else:
            own = self._names_in(step.item) if step else []
            raise LookupError(f"no step or model {name!r}; {near(name, [*own, *self.steps, *self.models])}")
        if not dot:
            return target
        if target.is_model or not table:
            raise LookupError(f"{reference!r}: a {'model has no tables' if table else 'table has a name'}")
        return Reference(target.name, table)

    def _look_before(self, name: str, step: RawStep | None) -> Reference:
        if not step or not step.item:
            raise LookupError(f"{BEFORE}/{name}: only steps of a group have an item before")
        if f"{step.item}/{name}" not in self.steps:
            raise LookupError(
                f"{BEFORE}/{name}: no step {name!r} in {step.group}; {near(name, self._names_in(step.item))}"
            )
        if f"{step.before}/{name}" in self.steps:
            return Reference(f"{step.before}/{name}")
        if name not in step.first:
            raise LookupError(f"{BEFORE}/{name}: nothing is before {step.item!r}; say it in steps.{step.group}.first")
        return self.look_up(step.first[name], step)

    def _names_in(self, item: str) -> list[str]:
        return [name.removeprefix(f"{item}/") for name in self.steps if item and name.startswith(f"{item}/")]


def is_name(text: str) -> bool:
    return bool(NAME.fullmatch(text)) and len(text) <= LONGEST


def unroll(recipe: Written, problems: list[Problem]) -> Unrolled:
    """Return the steps and models of a recipe; what is wrong with it is appended to `problems`."""
    return _Unrolling(recipe, problems).unrolled()


class _Unrolling:
    def __init__(self, recipe: Written, problems: list[Problem]) -> None:
        self.recipe, self.problems, self.noted_before = recipe, problems, len(problems)
        self.noted: set[Problem] = set()
        self.placeholders = Placeholders(problems)
        self.values = self.mapping(recipe.value.get("values"), ("values",))
        self.entries = self.mapping(recipe.value.get("steps"), ("steps",))
        self.changes = {name: entry for name, entry in self.entries.items() if "/" in name}
        self.items: dict[str, str] = {}  # and their groups
        self.firsts: dict[str, dict[str, Written]] = {}
        self.written: dict[str, Written] = {}
        self.steps: dict[str, RawStep] = {}

    def note(self, written: Written, path: Path, message: str) -> None:
        problem = Problem(written.place, ".".join(path), message)
        if problem not in self.noted:  # the same for several items of a group
            self.noted.add(problem)
            self.problems.append(problem)

    def mapping(self, written: Written | None, path: Path) -> dict[str, Written]:
        """Return the entries of a mapping; anything else is noted."""
        if written is None or written.value is None:
            return {}
        if isinstance(written.value, dict):
            return written.value
        self.note(written, path, "expected settings by name")
        return {}

    def unrolled(self) -> Unrolled:
        models = {}
        for name, entry in self.mapping(self.recipe.value.get("models"), ("models",)).items():
            path = ("models", name)
            if not is_name(name):
                self.note(entry, path, NAME_RULE)
            elif name in self.entries:
                self.note(entry, path, f"steps.{name} is called so too; rename one of the two")
            elif isinstance((filled := self.placeholders.fill(entry, self.values, path)).value, dict):
                models[name] = filled
            else:
                self.note(entry, path, "expected settings by name")
        nameless = [name for name in self.entries if "/" not in name and not self.add_entry(name)]
        for name in [*self.changes, *nameless]:
            message = f"no step to change, and no `stage` to make one; {near(name, self.steps)}"
            self.note(self.entries[name], ("steps", name), message)
        place = self.recipe.place
        parts = {"models": Written(models, place), "steps": Written(self.written, place)}
        below = list(Written({**self.recipe.value, **parts}, place).below())
        unrolled = Unrolled(
            name=self.scalar("name", str, ""),
            seed=self.scalar("seed", int, 0),
            toy=self.scalar("toy", bool, False),
            models={name: model.plain() for name, model in models.items()},
            steps=self.steps,
            places={path: written.place for path, written in below},
            origins={path: written.origin or written.place for path, written in below},
        )
        self.check_before(unrolled)
        for section, entries in (("models", models), ("steps", self.written)):
            for name, entry in entries.items():
                self.check_entry((section, name), entry, unrolled.places)
        if len(self.problems) == self.noted_before:
            for name in [name for name in self.values if name not in self.placeholders.used]:
                self.note(self.values[name], ("values", name), f"no text says {{{name}}}; remove it (null) or use it")
        return unrolled

    def scalar(self, key: str, kind: type, default: Any) -> Any:
        written = self.recipe.value.get(key)
        if written is None and key != "name":
            return default
        if written is None or type(written.value) is not kind:
            word = {str: "a text", int: "a whole number", bool: "true or false"}[kind]
            self.note(written or self.recipe, (key,), f"expected {word}")
            return default
        value: Any = written.value
        if key == "seed" and not 0 <= value < SEEDS:
            self.note(written, (key,), f"expected a whole number from 0 to {SEEDS - 1:,}, not {value}")
            return default
        return value

    def add_entry(self, name: str) -> bool:
        """Add a step or a group; return whether the entry is one."""
        entry, path = self.entries[name], ("steps", name)
        if not is_name(name):
            self.note(entry, path, NAME_RULE)
        elif not isinstance(entry.value, dict):
            self.note(entry, path, "expected the settings of a step or a group")
        elif "stage" not in entry.value and entry.value.keys() & {"each", "steps"}:
            self.add_group(name, entry.value)
        elif "stage" in entry.value and "each" in entry.value:
            self.note(entry, path, "is either a step with a `stage` or a group with `each`, not both")
        elif "stage" in entry.value:
            self.add_step(entry, self.values, path, name)
        else:
            return False
        return True

    def add_step(self, entry: Written, values: Mapping[str, Written], path: Path, name: str, **of_item: Any) -> None:
        """Fill a step and add it; `path` is where it stands in the recipe."""
        filled = self.placeholders.fill(entry, values, ("steps", name))
        stage = filled.value["stage"]
        if not isinstance(stage.value, str):
            self.note(stage, (*path, "stage"), "expected the name of a kind of stage")
            return
        settings = {key: item.plain() for key, item in filled.value.items() if key != "stage"}
        self.written[name] = filled
        self.steps[name] = RawStep(name, stage.value, settings, **of_item)

    def add_group(self, group: str, entry: dict[str, Written]) -> None:
        path = ("steps", group)
        for key in [key for key in entry if key not in GROUP_KEYS]:
            self.note(entry[key], (*path, key), f"a group has none; {near(key, GROUP_KEYS)}")
        inner = {}
        for name, step in self.mapping(entry.get("steps"), (*path, "steps")).items():
            at = (*path, "steps", name)
            if not is_name(name):
                self.note(step, at, NAME_RULE)
            elif not isinstance(step.value, dict) or "stage" not in step.value:
                nests = isinstance(step.value, dict) and "each" in step.value
                hint = "groups do not nest; name all placeholders in one `each`" if nests else "has no `stage`"
                self.note(step, at, hint)
            else:
                inner[name] = step
        first = {}
        for name, target in self.mapping(entry.get("first"), (*path, "first")).items():
            if name in inner:
                first[name] = target
            else:
                self.note(target, (*path, "first", name), f"no step of the group; {near(name, inner)}")
        self.firsts[group] = first
        for item, values, before in self.items_of(group, entry):
            of_first = self.first_of(first, values, path)
            for name, step in inner.items():
                change = self.changes.pop(f"{item}/{name}", None)
                if change is not None:
                    step = self.changed(step, change, f"{item}/{name}")
                at = (*path, "steps", name)
                of_item = {"item": item, "group": group, "before": before, "first": of_first}
                self.add_step(step, values, at, f"{item}/{name}", **of_item)

    def first_of(self, first: Mapping[str, Written], values: Mapping[str, Written], path: Path) -> dict[str, str]:
        names = {}
        for name, written in first.items():
            at = (*path, "first", name)
            target = self.placeholders.fill(written, values, at).plain()
            if isinstance(target, str) and not target.startswith(f"{BEFORE}/"):
                names[name] = target
            else:
                self.note(written, at, f"expected the name of a step or model, not {target!r}")
        return names

    def changed(self, step: Written, change: Written, name: str) -> Written:
        """Return a group's step with what is different for one item."""
        if not isinstance(change.value, dict):
            self.note(change, ("steps", name), "expected settings by name")
        elif "stage" in change.value:
            self.note(change.value["stage"], ("steps", name, "stage"), "is the group's to say; remove it here")
        else:
            return merged(step, change)
        return step

    def items_of(self, group: str, entry: dict[str, Written]) -> Iterator[tuple[str, dict[str, Written], str]]:
        """Yield a group's items: the name, the values of its placeholders, and the item before."""
        path = ("steps", group, "each")
        each = entry.get("each", self.entries[group])
        axes = {}
        for name, options in each.value.items() if "each" in entry and isinstance(each.value, dict) else ():
            axes[name] = self.labels_of(self.placeholders.fill(options, self.values, (*path, name)), (*path, name))
        if not axes or math.prod(map(len, axes.values())) > MAX_ITEMS:
            self.note(each, path, f"expected placeholders with their items, at most {MAX_ITEMS:,} in all")
            return
        *_, last = axes.values()
        earlier = dict(zip(list(last)[1:], last, strict=False))  # of [a, b, c]: {b: a, c: b}
        for labels in itertools.product(*axes.values()):
            item = "-".join(labels)
            if not is_name(item):
                self.note(each, path, f"item {item!r} has more than {LONGEST} characters; shorten its labels")
                continue
            if item in self.items or item == BEFORE:
                whose = f"an item of {self.items[item]} too" if item in self.items else "what the item before is called"
                self.note(each, path, f"item {item!r} is {whose}; rename it")
                continue
            self.items[item] = group
            own = {name: axes[name][label] for name, label in zip(axes, labels, strict=True)}
            before = "-".join((*labels[:-1], earlier[labels[-1]])) if labels[-1] in earlier else ""
            yield item, self.values | own, before

    def labels_of(self, options: Written, path: Path) -> dict[str, Written]:
        """Return a placeholder's values by their names; an item of a list is called like its value."""
        if isinstance(options.value, dict):
            pairs = list(options.value.items())
        elif isinstance(options.value, list):
            pairs = [(str(item.value) if type(item.value) in (str, int) else "", item) for item in options.value]
        else:
            pairs = []
        if not pairs:
            self.note(options, path, "expected a list of items, or values by label")
        labels: dict[str, Written] = {}
        for label, item in pairs:
            if not is_name(label):
                self.note(item, path, f"{label or item.plain()!r} {NAME_RULE}, or write {{LABEL: VALUE}}")
            elif label in labels:
                self.note(item, path, f"{label!r} is an item already")
            else:
                labels[label] = item
        return labels

    def check_before(self, unrolled: Unrolled) -> None:
        """Note `previous/NAME` of first items that `first` does not say, and what it says in vain."""
        used: set[tuple[str, str]] = set()
        for name, step in self.steps.items():
            if not step.item or step.before:
                continue
            for path, written in self.written[name].below(("steps", name)):
                match = REFERENCE_BEFORE.fullmatch(written.value) if isinstance(written.value, str) else None
                if match:
                    used.add((step.group, match[1]))
                    try:
                        unrolled.look_up(match[0], step)
                    except LookupError as error:
                        self.note(written, path, str(error))
        for group, first in self.firsts.items():
            for name in first:
                if (group, name) not in used:
                    message = f"no step of the group takes {BEFORE}/{name}; remove it"
                    self.note(first[name], ("steps", group, "first", name), message)

    def check_entry(self, path: Path, entry: Written, places: Mapping[Path, Place]) -> None:
        """Note what a file may not say, of all but what was typed; and what nobody may."""
        of_files = _of_files(entry)
        faults = list(settings_problems(of_files.plain(), path, typed=False)) if of_files else []
        for at, message in dict.fromkeys([*faults, *settings_problems(entry.plain(), path, typed=True)]):
            self.problems.append(Problem(place_of(places, at), ".".join(at), message))


def _of_files(written: Written) -> Written | None:
    """Return what is left of a value without all that was typed."""
    if not written.value or not isinstance(written.value, dict | list):
        return None if written.place.typed else written
    if isinstance(written.value, dict):
        items = {key: left for key, item in written.value.items() if (left := _of_files(item))}
        return Written(items, written.place) if items else None
    parts = [left for item in written.value if (left := _of_files(item))]
    return Written(parts, written.place) if parts else None
