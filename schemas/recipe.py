"""Recipes as they are written: every value with its file and line, and all that is wrong with them.

YAML is read as plain data. Anchors and `<<` work; a value that is merged in keeps the line where it is written.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from schemas.errors import UsageError
from schemas.file_settings import MAX_DEPTH
from schemas.settings import read_yaml

MAX_VALUES = 100_000  # anchors can make billions of values of a few lines
YAML = "tag:yaml.org,2002:"
MERGE, MAPPING, LIST, INT, TEXT, *OTHERS = (
    f"{YAML}{name}" for name in ("merge", "map", "seq", "int", "str", "float", "bool", "null")
)
PLAIN = (INT, TEXT, *OTHERS)
SHOWN = 20  # names that a message lists

Path = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a value is written: a file and its line, or another source, such as a flag, and line 0.

    typed: whether the user typed it; a file may say less (schemas.file_settings).
    """

    source: str
    line: int = 0
    typed: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


Places = Mapping[Path, Place]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe; `key` is dotted, such as `steps.triples.questions`."""

    place: Place | None
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.place, self.key, self.message) if part)


@dataclass(frozen=True)
class Written:
    """A scalar, or a list or mapping of values that are written too, with its place.

    origin: where the text's beginning is written, if that is elsewhere; a relative path is meant from there.
    """

    value: Any
    place: Place
    origin: Place | None = None

    def plain(self) -> Any:
        """Return the value as plain data."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return [item.plain() for item in self.value] if isinstance(self.value, list) else self.value

    def below(self, path: Path = ()) -> Iterator[tuple[Path, "Written"]]:
        """Yield every value with its path, itself first."""
        yield path, self
        if isinstance(self.value, dict | list):
            pairs = self.value.items() if isinstance(self.value, dict) else enumerate(self.value)
            for key, item in pairs:
                yield from item.below((*path, str(key)))


def place_of(places: Places, path: Path) -> Place | None:
    """Return the place of a value, or else of what holds it."""
    return next((places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in places), None)


def near(name: str, names: Iterable[str]) -> str:
    """Return what a message says of a name that is none of these."""
    names = list(names)
    if close := difflib.get_close_matches(name, names, 1):
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"there are {shown}" if names else "there are none"


def read_yaml_with_places(path: str, problems: list[Problem]) -> Written:
    """Read a YAML file of plain data; UsageError where it is none, or larger than any recipe."""
    node = read_yaml(path, load=lambda file: yaml.compose(file, Loader=yaml.SafeLoader))
    return Written(None, Place(path, 1)) if node is None else _YamlReader(path, problems).value(node, (), node)


def written(value: Any, place: Place, path: Path = ()) -> Written:
    """Return plain data of one place, such as what was typed or comes from Python."""
    if len(path) > MAX_DEPTH:
        raise UsageError(f"{place}: {'.'.join(path[:3])}…: nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        items = {str(key): written(item, place, (*path, str(key))) for key, item in value.items()}
        return Written(items, place)
    if isinstance(value, list | tuple):
        return Written([written(item, place, (*path, str(index))) for index, item in enumerate(value)], place)
    return Written(value, place)


@dataclass
class _YamlReader:
    source: str
    problems: list[Problem]
    count: int = 0
    faulty: set[int] = field(default_factory=set)  # nodes already noted: an anchor leads to one from several places

    def value(self, node: yaml.Node, path: Path, at: yaml.Node) -> Written:
        """Return a node's value; it counts as written where its key is."""
        self.visit(node, len(path))
        place = Place(self.source, at.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == MAPPING:
            pairs = self.pairs(node, path, len(path))
            return Written({name: self.value(item, (*path, name), key) for name, (key, item) in pairs.items()}, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == LIST:
            return Written([self.value(item, (*path, str(i)), item) for i, item in enumerate(node.value)], place)
        return Written(self.scalar(node, path), place)

    def pairs(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return a mapping's keys and values by name, its own before those that it merges in."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, item in node.value:
            self.visit(key, depth)
            if key.tag == MERGE:
                for source in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    self.visit(source, depth)
                    if isinstance(source, yaml.MappingNode):
                        merged = self.pairs(source, path, depth + 1) | merged
                    else:
                        self.note(key, path, "<< takes a mapping, or a list of mappings")
            elif not isinstance(key, yaml.ScalarNode) or key.tag not in (TEXT, INT):
                said = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                self.note(key, path, f"{said} is no text where a name is due; put it in quotes")
            elif key.value in own:
                first = own[key.value][0].start_mark.line + 1
                self.note(key, (*path, key.value), f"is in line {first} already; rename or remove one of the two")
            else:
                own[key.value] = key, item
        return merged | own

    def scalar(self, node: yaml.Node, path: Path) -> Any:
        kind = node.tag.removeprefix(YAML)
        if node.tag not in PLAIN or not isinstance(node, yaml.ScalarNode):
            self.note(node, path, f"{kind} is no plain value; put a text in quotes")
            return None
        try:
            return SafeConstructor().construct_object(node)
        except (ValueError, LookupError):
            self.note(node, path, f"{node.value!r} cannot be read as {kind}; put a text in quotes")
            return None

    def note(self, node: yaml.Node, path: Path, message: str) -> None:
        if id(node) not in self.faulty:
            self.faulty.add(id(node))
            self.problems.append(Problem(Place(self.source, node.start_mark.line + 1), ".".join(path), message))

    def visit(self, node: yaml.Node, depth: int) -> None:
        """Count a node; raise UsageError for what may never end."""
        self.count += 1
        place = Place(self.source, node.start_mark.line + 1)
        if depth > MAX_DEPTH:
            raise UsageError(f"{place}: nested more than {MAX_DEPTH} levels deep; does an anchor hold itself?")
        if self.count > MAX_VALUES:
            raise UsageError(f"{place}: more than {MAX_VALUES:,} values, with all that anchors repeat")
