"""Fields of a Config: one dataclass is YAML, flags, help, validation, and the edges of a recipe's graph.

    @dataclass(frozen=True, kw_only=True)
    class Config:
        questions: str = takes("questions to answer", "id", "question")         # a table: a step's name, or a path
        model: str = uses("generator", "who answers them")                      # a model: an entry's or a step's name
        pack: str = pack("criterion pack", "name", "failure")                   # counts by these parts of its content
        limit: int | None = setting("only the first N questions", None, limits="questions")
        minimum_yield: float = setting("stop if a smaller share survives", 0.1, decides=False)

`edges` lists what a Config takes and uses, at any depth, each with a path such as `members.0.inspector`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.criteria.pack import load_pack, pack_digest

Role = Literal["generator", "inspector", "pair-ranker", "encoder", "base"]
REQUIRED = dataclasses.MISSING
SEEDS = 2**32  # what numpy, torch and transformers take alike
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
TABLE_AND_ANSWER = {"table", "answer"}  # the keys of an input that chooses its answer column


@dataclass(frozen=True)
class Takes:
    """An input table: the columns that it must have, and whether a column is read as the answer.

    labelled: whether several tables may be given, each by a label.
    """

    columns: tuple[str, ...]
    answer: bool = False
    labelled: bool = False


@dataclass(frozen=True)
class Uses:
    """A model, and what it must be able to do."""

    role: Role


def setting(
    help: str,
    default: Any = REQUIRED,
    *,
    positional: bool = False,
    short: str = "",
    flag: str = "",
    also: str = "",
    decides: bool = True,
    was: Any = REQUIRED,
    limits: str = "",
    rows: bool = False,
    path: bool = False,
    of_run: bool = False,
) -> Any:
    """Return a field of a Config that is also a flag; `help` is what `--help` says of it.

    flag: the flag, where it is not called as the field. also: an older name of it.
    decides: whether the value changes what is made.
    was: how things were before the field was added; at that value it does not count.
    limits: the input that is cut to so many rows. rows: whether it is a number of rows that `--limit` caps.
    path: whether it names a file, which is looked for beside the recipe first.
    of_run: whether the run fills it in, and no recipe.
    """
    metadata = {
        "help": help,
        "positional": positional,
        "short": short,
        "flag": flag,
        "also": also,
        "decides": decides,
        "limits": limits,
        "rows": rows or bool(limits),
        "path": path,
        "of_run": of_run,
    }
    if was is not REQUIRED:
        metadata["was"] = was
    return dataclasses.field(default=default, metadata=metadata)


def takes(
    help: str,
    *columns: str,
    default: Any = REQUIRED,
    answer: bool = False,
    labelled: bool = False,
    positional: bool = False,
    also: str = "",
) -> Any:
    """Return a field that names an input table with these columns: a step of the recipe, on a command line a path."""
    edge = Takes(columns, answer, labelled)
    metadata = {"help": help, "positional": positional, "short": "", "also": also, "edge": edge}
    return dataclasses.field(default=default, metadata=metadata)


def uses(role: Role, help: str, default: Any = REQUIRED, *, also: str = "") -> Any:
    """Return a field that names a model of this role: a model or step of the recipe, on a command line a folder."""
    metadata = {"help": help, "positional": False, "short": "", "also": also, "edge": Uses(role)}
    return dataclasses.field(default=default, metadata=metadata)


def pack(help: str, *parts: str, default: Any = REQUIRED, also: str = "") -> Any:
    """Return a field that names a criterion pack, a name or a file, and counts by these parts of it (default: all)."""
    metadata = {"help": help, "positional": False, "short": "", "also": also, "path": True, "pack": parts}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Edge:
    """What a Config takes or uses: where it says so, and the name or path that it says.

    path: `questions`, `heldout.0`, `aligned.guard on`, `members.1.inspector`. answer: the column that is read as the
    answer, where the Config chooses one.
    """

    path: str
    edge: Takes | Uses
    reference: str
    answer: str = ""


def edges(config: Any) -> Iterator[Edge]:
    """Yield what a Config takes and uses, at any depth; an empty reference is none.

    Raises ValueError, naming the field, for a reference of another form.
    """
    for item, path, value in _edge_fields(config, ""):
        yield from _references(item.metadata["edge"], path, value)


def unnamed(config: Any) -> Iterator[str]:
    """Yield the paths of what a Config must take or use, and names nothing for."""
    for item, path, value in _edge_fields(config, ""):
        if item.default and not value:  # a default that is empty stands for none
            yield path
        elif isinstance(value, Mapping) and value.keys() != TABLE_AND_ANSWER:
            yield from (f"{path}.{label}" for label, part in value.items() if not part)
        elif isinstance(value, tuple | list):
            yield from (f"{path}.{number}" for number, part in enumerate(value) if not part)


def _edge_fields(config: Any, prefix: str) -> Iterator[tuple[dataclasses.Field, str, Any]]:
    """Yield every field at any depth that takes or uses something, with its path and value."""
    for item in dataclasses.fields(config):
        value, path = getattr(config, item.name), prefix + item.name
        if "edge" in item.metadata:
            yield item, path, value
        elif dataclasses.is_dataclass(value):
            yield from _edge_fields(value, f"{path}.")
        elif isinstance(value, tuple):
            for number, part in enumerate(value):
                if dataclasses.is_dataclass(part):
                    yield from _edge_fields(part, f"{path}.{number}.")


def _references(edge: Takes | Uses, path: str, value: Any) -> Iterator[Edge]:
    if not value:
        return
    if isinstance(value, str):
        yield Edge(path, edge, value)
    elif isinstance(value, Mapping) and value.keys() == TABLE_AND_ANSWER and isinstance(edge, Takes):
        if not edge.answer:
            raise ValueError(f"{path}.answer: no answer is read here; name the table alone")
        yield Edge(path, edge, str(value["table"]), str(value["answer"]))
    elif isinstance(value, Mapping):
        for label, part in value.items():
            yield from _references(edge, f"{path}.{label}", part)
    elif isinstance(value, tuple | list):
        for number, part in enumerate(value):
            yield from _references(edge, f"{path}.{number}", part)
    else:
        raise ValueError(f"{path}: must be a name, not {value!r}")


def decisive(config: Any, digest_at: Callable[[str], Any]) -> dict[str, Any]:
    """Return what of a Config decides what is made, as plain values of the Config's own form.

    digest_at: returns what stands for the table or model at an edge's path. Packs count by their content. Left out are
    fields that decide nothing, and fields at the value that things had before there was a field.
    """
    return _decisive(config, "", digest_at)


def _decisive(config: Any, prefix: str, digest_at: Callable[[str], Any]) -> dict[str, Any]:
    values = {}
    for item in dataclasses.fields(config):
        value, path, about = getattr(config, item.name), prefix + item.name, item.metadata
        if not about.get("decides", True) or about.get("of_run"):
            continue
        if "was" in about and value == about["was"]:
            continue
        if "edge" in about:
            values[item.name] = _digests(value, path, digest_at)
        elif "pack" in about:
            values[item.name] = pack_digest(load_pack(value), *about["pack"]) if value else ""
        else:
            values[item.name] = _plain(value, path, digest_at)
    return values


def _digests(value: Any, path: str, digest_at: Callable[[str], Any]) -> Any:
    if not value:
        return None
    if isinstance(value, Mapping) and value.keys() != TABLE_AND_ANSWER:
        return {label: _digests(part, f"{path}.{label}", digest_at) for label, part in value.items()}
    if isinstance(value, tuple | list):
        return [_digests(part, f"{path}.{number}", digest_at) for number, part in enumerate(value)]
    return digest_at(path)


def _plain(value: Any, path: str, digest_at: Callable[[str], Any]) -> Any:
    if dataclasses.is_dataclass(value):
        return _decisive(value, f"{path}.", digest_at)
    if isinstance(value, tuple | list):
        return [_plain(part, f"{path}.{number}", digest_at) for number, part in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(name): _plain(part, f"{path}.{name}", digest_at) for name, part in value.items()}
    return value
