"""Criterion packs: a criterion written as text, in one YAML file.

A pack says who judges (role, task), by what (principles), how (demonstrations), on which questions (failure, seeds)
and which words must never come out (banned words). The field comments are in `ethical.yaml`, the pattern for packs of
your own. Texts are literal: a pack has no placeholders.

`check_pack` reports everything that is wrong with a file at once, with line and field; `load_pack` refuses a pack that
has an error. Errors are what would break a prompt or leave nothing to generate from; what falls short of the setting of
paper 000, app. D and E (5 demonstrations, one of them with nothing wrong, 20 seeds of 20 question types) is a warning.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import fsspec
import xxhash
import yaml

from schemas.errors import UsageError

PACKS_DIR = Path(__file__).parent
SECTIONS = ("Input", "Response", "Critique", "Correction")  # the headings of the triples prompt, in its order
AT_LEAST = {"principles": 1, "demonstrations": 2, "seeds": 5}
RECOMMENDED = {"demonstrations": 5, "seeds": 20}
RECOMMENDED_TYPES = 20

CITATION = re.compile(r"\bprinciples?\s+((?:(?:,|and|or|\s)*\d+(?:\s*\([^()]*\))?)+)", re.IGNORECASE)
CITED = re.compile(r"(\d+)(?:\s*\(([^()]*)\))?")
HEADING = re.compile(rf"^(?:{'|'.join(SECTIONS)}):", re.MULTILINE)
PLACEHOLDER = re.compile(r"\{\{.*?(?:\}\}|$)|\{%.*?(?:%\}|$)", re.MULTILINE)

Line = Annotated[str, "no line break"]


@dataclass(frozen=True, kw_only=True)
class Principle:
    name: Line
    text: str


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    question: str
    response: str
    critique: str
    correction: str
    identity: bool = False


@dataclass(frozen=True, kw_only=True)
class Seed:
    topic: Line
    question_type: Line
    question: Line


@dataclass(frozen=True, kw_only=True)
class Pack:
    name: Line
    role: Line
    task: str
    principles: tuple[Principle, ...]
    failure: Line
    demonstrations: tuple[Demonstration, ...]
    seeds: tuple[Seed, ...]
    banned_words: tuple[Line, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a file; `level` is 'error' or 'warning', lines count from 1."""

    level: str
    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.level}: {self.field + ': ' if self.field else ''}{self.message}"


def pack_names() -> list[str]:
    """The packs that come with alignbeam."""
    return sorted(path.stem for path in PACKS_DIR.glob("*.yaml"))


def load_pack(name_or_path: str) -> Pack:
    """The bundled pack of that name, or the one in a file (any fsspec path).

    Raises UsageError with every error of the file: path, line, field and what to do.
    """
    pack, problems = _read(name_or_path)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors or pack is None:
        raise UsageError(f"criterion pack {name_or_path!r} has {len(errors)} error(s):\n" + "\n".join(map(str, errors)))
    return pack


def check_pack(name_or_path: str) -> list[Problem]:
    """Every error and warning of a pack, in the order of its lines."""
    return _read(name_or_path)[1]


def pack_digest(pack: Pack, *field_names: str) -> str:
    """32 hexadecimal digits for what the pack says: in all, or in the fields named, on which a stage depends."""
    content = asdict(pack)
    chosen = {name: content[name] for name in field_names or sorted(content)}
    return xxhash.xxh3_128_hexdigest(json.dumps(chosen, sort_keys=True).encode())


def cited_principles(text: str, principles: tuple[Principle, ...]) -> list[tuple[int, str | None]]:
    """The principles that a critique cites, as (number, name or None): 'principle 2', 'principles 1 (a) and 3 (b)'.

    Without the English word a citation is a number before a known name in brackets, as in '2 (fairness)'.
    """
    cited = [found for run in CITATION.finditer(text) for found in CITED.findall(run.group(1))]
    names = {principle.name for principle in principles}
    loose = [found for found in CITED.findall(CITATION.sub("", text)) if found[1].strip() in names]
    return [(int(number), name.strip() or None) for number, name in cited + loose]


def _read(name_or_path: str) -> tuple[Pack | None, list[Problem]]:
    bundled = name_or_path in pack_names()
    reader = _Reader(str(PACKS_DIR / f"{name_or_path}.yaml") if bundled else name_or_path)
    parts = reader.parts()
    reader.problems.sort(key=lambda problem: problem.line)
    if parts is None or any(problem.level == "error" for problem in reader.problems):
        return None, reader.problems
    return Pack(**parts), reader.problems


def _shown(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or fields"


class _Reader:
    """Reads one file as far as it can be read; notes what is wrong and goes on.

    The classes above are the schema: texts, booleans, tuples and nested classes are read by their annotations.
    """

    def __init__(self, file: str):
        self.file = file
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []

    def note(self, field: str, message: str, *, level: str = "error", line: int | None = None) -> None:
        line = self.lines.get(field, 1) if line is None else line
        self.problems.append(Problem(level=level, file=self.file, line=line, field=field, message=message))

    def parts(self) -> dict[str, Any] | None:
        """The values of the pack's fields; in lists None stands for an item that could not be read."""
        node = self.tree()
        if node is None:
            return None
        parts = self.mapping(node, "", Pack)
        if parts is not None:
            self.check(parts)
        return parts

    def tree(self) -> yaml.Node | None:
        try:
            with fsspec.open(self.file, "rb") as stream:
                data = stream.read()
            node = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            self.note("", f"not UTF-8: {error.reason}", line=data.count(b"\n", 0, error.start) + 1)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            what = getattr(error, "problem", None) or str(error).splitlines()[0]
            self.note(
                "", f"not YAML: {what} (put a text with punctuation in quotes)", line=mark.line + 1 if mark else 1
            )
        except (OSError, ValueError, ImportError) as error:
            known = f"; bundled packs: {', '.join(pack_names())}"
            self.note("", f"cannot be read: {error or type(error).__name__}{known}")
        else:
            if node is not None:
                return node
            self.note("", "the file is empty")
        return None

    def value(self, node: yaml.Node, field: str, kind: Any) -> Any:
        self.lines[field] = node.start_mark.line + 1
        if isinstance(kind, type) and is_dataclass(kind):
            values = self.mapping(node, field, kind) or {}
            required = {spec.name for spec in fields(kind) if spec.default is MISSING}
            complete = required <= values.keys() and None not in values.values()
            return kind(**values) if complete else None
        if kind is bool:
            if node.value in ("true", "false"):
                return node.value == "true"
            self.note(field, f"expected true or false, found {_shown(node)}")
            return None
        if kind is str or kind is Line:
            return self.text(node, field, one_line=kind is Line)
        if isinstance(node, yaml.SequenceNode):
            item = get_args(kind)[0]
            return tuple(self.value(child, f"{field}[{index}]", item) for index, child in enumerate(node.value))
        self.note(field, "expected a list")
        return None

    def mapping(self, node: yaml.Node, field: str, kind: Any) -> dict[str, Any] | None:
        if not isinstance(node, yaml.MappingNode):
            self.note(field, f"expected the fields {', '.join(spec.name for spec in fields(kind))}")
            return None
        kinds = {spec.name: spec.type for spec in fields(kind)}
        prefix = f"{field}." if field else ""
        values: dict[str, Any] = {}
        for key, child in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name not in kinds:
                self.note(prefix + name, f"unknown field; known are {', '.join(kinds)}", line=line)
            elif name in values:
                self.note(prefix + name, "given twice", line=line)
            else:
                values[name] = self.value(child, prefix + name, kinds[name])
        for spec in fields(kind):
            if spec.name not in values and spec.default is MISSING:
                self.note(prefix + spec.name, "missing", line=node.start_mark.line + 1)
        return values

    def text(self, node: yaml.Node, field: str, one_line: bool) -> str | None:
        if node.tag != "tag:yaml.org,2002:str":
            self.note(field, f"expected text, found {_shown(node)} (put it in quotes if it is meant as text)")
            return None
        text = node.value.strip()
        if not text:
            self.note(field, "empty")
        if placeholder := PLACEHOLDER.search(text):
            self.note(field, f"unknown placeholder {placeholder.group()!r}: a pack holds literal text only")
        if heading := HEADING.search(text):
            self.note(field, f"a line begins with {heading.group()!r}, a heading of the prompt: reword it")
        if one_line and "\n" in text:
            self.note(field, "must be one line")
        return text

    def check(self, parts: Mapping[str, Any]) -> None:
        """What no single field shows: counts, doubles, citations, identity demonstrations."""
        for field, least in AT_LEAST.items():
            count = len(parts.get(field) or ())
            if field in self.lines and count < least:
                self.note(field, f"{count} given, at least {least} needed")
            elif field in self.lines and count < RECOMMENDED.get(field, 0):
                self.note(field, f"{count} given, {RECOMMENDED[field]} recommended", level="warning")
        name = parts.get("name")
        if name and not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            self.note("name", f"{name!r} names columns and folders: use a-z, 0-9 and _ only, a letter first")
        principles = parts.get("principles") or ()
        self.check_doubles("principles", "name", principles)
        self.check_demonstrations(parts.get("demonstrations") or (), principles)
        seeds = parts.get("seeds") or ()
        self.check_doubles("seeds", "question", seeds)
        types = {seed.question_type for seed in seeds if seed}
        if len(seeds) >= AT_LEAST["seeds"] and len(types) < RECOMMENDED_TYPES:
            message = f"{len(types)} question types, {RECOMMENDED_TYPES} recommended"
            self.note("seeds", message, level="warning")

    def check_doubles(self, field: str, key: str, items: tuple[Any, ...]) -> None:
        first: dict[str, int] = {}
        for index, item in enumerate(items):
            if item is None:
                continue
            earlier = first.setdefault(" ".join(getattr(item, key).casefold().split()), index)
            if earlier != index:
                self.note(f"{field}[{index}].{key}", f"repeats {field}[{earlier}].{key}")

    def check_demonstrations(self, demonstrations: tuple[Any, ...], principles: tuple[Any, ...]) -> None:
        readable = [(index, item) for index, item in enumerate(demonstrations) if item]
        for index, item in readable:
            field = f"demonstrations[{index}]"
            if item.identity and item.correction != item.response:
                self.note(f"{field}.correction", "differs from the response although identity is true")
            if not item.identity and item.correction == item.response:
                self.note(f"{field}.correction", "equals the response: change it or set identity: true")
            if all(principles):
                self.check_citations(f"{field}.critique", item, principles)
        if readable and all(item.identity for _, item in readable):
            self.note("demonstrations", "none shows a response that is wrong")
        elif readable and not any(item.identity for _, item in readable):
            message = "none has nothing wrong (identity: true), so good answers will be rewritten as well"
            self.note("demonstrations", message, level="warning")

    def check_citations(self, field: str, item: Demonstration, principles: tuple[Principle, ...]) -> None:
        cited = cited_principles(item.critique, principles)
        for number, name in cited:
            if not 1 <= number <= len(principles):
                self.note(field, f"cites principle {number}, but there are {len(principles)}")
            elif name and name != principles[number - 1].name:
                self.note(field, f"cites principle {number} ({name}), which is named {principles[number - 1].name!r}")
        if not cited and not item.identity:
            self.note(field, "cites no principle by number and name", level="warning")
