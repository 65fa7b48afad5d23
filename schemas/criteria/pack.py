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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from schemas.criteria.reader import Line, Problem, Reader
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


def pack_names() -> list[str]:
    """Return the names of the packs that come with alignbeam."""
    return sorted(path.stem for path in PACKS_DIR.glob("*.yaml"))


def load_pack(name_or_path: str) -> Pack:
    """Return the bundled pack of that name, or the one in a file (any fsspec path).

    Raises UsageError with every error of the file: path, line, field and what to do.
    """
    pack, problems = _read(name_or_path)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors or pack is None:
        raise UsageError(f"criterion pack {name_or_path!r} has {len(errors)} error(s):\n" + "\n".join(map(str, errors)))
    return pack


def check_pack(name_or_path: str) -> list[Problem]:
    """Return every error and warning of a pack, in the order of its lines."""
    return _read(name_or_path)[1]


def pack_digest(pack: Pack, *field_names: str) -> str:
    """Return 32 hexadecimal digits for what the pack says.

    That is all its fields, or those on which a stage depends.
    """
    content = asdict(pack)
    chosen = {name: content[name] for name in field_names or sorted(content)}
    return xxhash.xxh3_128_hexdigest(json.dumps(chosen, sort_keys=True).encode())


def cited_principles(text: str, principles: tuple[Principle, ...]) -> list[tuple[int, str | None]]:
    """Return the principles that a critique cites, as (number, name or None).

    `principles 1 (short), 2 (kind) and 3` → (1, short), (2, kind), (3, None). Without the English word a citation is a
    number before a principle's name in brackets, as in `2 (kind)`.
    """
    cited = [number_name for run in CITATION.finditer(text) for number_name in CITED.findall(run.group(1))]
    names = {principle.name for principle in principles}
    wordless = CITED.findall(CITATION.sub("", text))
    cited += [(number, name) for number, name in wordless if name.strip() in names]
    return [(int(number), name.strip() or None) for number, name in cited]


def _read(name_or_path: str) -> tuple[Pack | None, list[Problem]]:
    is_bundled = name_or_path in pack_names()
    file = str(PACKS_DIR / f"{name_or_path}.yaml") if is_bundled else name_or_path
    reader = Reader(file, _text_problems, f"; bundled packs: {', '.join(pack_names())}")
    parts = reader.fields_of(Pack)
    if parts is not None:
        _check_whole(reader, parts)
    reader.problems.sort(key=lambda problem: problem.line)
    if parts is None or any(problem.level == "error" for problem in reader.problems):
        return None, reader.problems
    return Pack(**parts), reader.problems


def _text_problems(text: str) -> Iterator[str]:
    if placeholder := PLACEHOLDER.search(text):
        yield f"unknown placeholder {placeholder.group()!r}: a pack holds literal text only"
    if heading := HEADING.search(text):
        yield f"a line begins with {heading.group()!r}, a heading of the prompt: reword it"


def _check_whole(reader: Reader, parts: Mapping[str, Any]) -> None:
    """Note what no single field shows: counts, doubles, citations, identity demonstrations."""
    for field, least in AT_LEAST.items():
        count = len(parts.get(field) or ())
        if field in reader.lines and count < least:
            reader.note(field, f"{count} given, at least {least} needed")
        elif field in reader.lines and count < RECOMMENDED.get(field, 0):
            reader.note(field, f"{count} given, {RECOMMENDED[field]} recommended", level="warning")
    name = parts.get("name")
    if name and not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        reader.note("name", f"{name!r} names columns and folders: use a-z, 0-9 and _ only, a letter first")
    principles = parts.get("principles") or ()
    _check_doubles(reader, "principles", "name", principles)
    _check_demonstrations(reader, parts.get("demonstrations") or (), principles)
    seeds = parts.get("seeds") or ()
    _check_doubles(reader, "seeds", "question", seeds)
    types = {seed.question_type for seed in seeds if seed}
    if len(seeds) >= AT_LEAST["seeds"] and len(types) < RECOMMENDED_TYPES:
        message = f"{len(types)} question types, {RECOMMENDED_TYPES} recommended"
        reader.note("seeds", message, level="warning")


def _check_doubles(reader: Reader, field: str, key: str, items: tuple[Any, ...]) -> None:
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        if item is None:
            continue
        earlier = first.setdefault(" ".join(getattr(item, key).casefold().split()), index)
        if earlier != index:
            reader.note(f"{field}[{index}].{key}", f"repeats {field}[{earlier}].{key}")


def _check_demonstrations(reader: Reader, demonstrations: tuple[Any, ...], principles: tuple[Any, ...]) -> None:
    readable = [(index, item) for index, item in enumerate(demonstrations) if item]
    for index, item in readable:
        field = f"demonstrations[{index}]"
        if item.identity and item.correction != item.response:
            reader.note(f"{field}.correction", "differs from the response although identity is true")
        if not item.identity and item.correction == item.response:
            reader.note(f"{field}.correction", "equals the response: change it or set identity: true")
        if all(principles):
            _check_citations(reader, f"{field}.critique", item, principles)
    if readable and all(item.identity for _, item in readable):
        reader.note("demonstrations", "none shows a response that is wrong")
    elif readable and not any(item.identity for _, item in readable):
        message = "none has nothing wrong (identity: true), so good answers will be rewritten as well"
        reader.note("demonstrations", message, level="warning")


def _check_citations(reader: Reader, field: str, item: Demonstration, principles: tuple[Principle, ...]) -> None:
    cited = cited_principles(item.critique, principles)
    for number, name in cited:
        if not 1 <= number <= len(principles):
            reader.note(field, f"cites principle {number}, but there are {len(principles)}")
        elif name and name != principles[number - 1].name:
            reader.note(field, f"cites principle {number} ({name}), which is named {principles[number - 1].name!r}")
    if not cited and not item.identity:
        reader.note(field, "cites no principle by number and name", level="warning")
