"""Settings: frozen dataclasses filled from layers (defaults < file < --set < flags), each value knowing its source."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TextIO, TypeVar

import fsspec
import pydantic
import yaml

from schemas.errors import UsageError
from schemas.file_settings import check_settings
from schemas.urls import redact_urls, redacted

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """Settings from one source, such as a recipe or the flags of a command line.

    typed: whether the user typed them; a file may say less (schemas.file_settings).
    """

    source: str
    values: Mapping[str, Any]
    typed: bool = False


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """A validated config and the source of every value in it, by dotted name."""

    config: T
    sources: dict[str, str] = field(default_factory=dict)


def read_yaml(path: str, load: Callable[[TextIO], Any] = yaml.safe_load) -> Any:
    """Read a YAML file with `load`.

    UsageError names one that cannot be read, and the line where it is not YAML.
    """
    try:
        with fsspec.open(path, "r", encoding="utf-8") as file:
            return load(file)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {error}") from error
    except Exception as error:  # a folder, no permission, no such store; and stores have errors of their own
        raise UsageError(f"{path}: cannot be read: {error}") from error


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Read `["a.b=1"]` as `{"a": {"b": 1}}`; values are YAML."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip("."):
            raise UsageError(f"--set {assignment}: expected name=value, such as triples.sampling.max_tokens=256")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {assignment}: the value is not YAML: {error}") from error
        *path, last = name.split(".")
        target = values
        for part in path:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise UsageError(f"--set {assignment}: {part} was set to a plain value before")
        target[last] = value
    return values


def resolve(config_class: type, layers: list[Layer]) -> Resolved:
    """Merge the layers, later ones winning, and validate them as a `config_class`.

    Raises UsageError naming the key, its source and what is wrong, for all problems at once.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        if not isinstance(layer.values, Mapping):
            raise UsageError(f"{layer.source}: expected settings by name, found {type(layer.values).__name__}")
        check_settings(layer.source, layer.values, typed=layer.typed)
        problems = list(_unknown_keys(config_class, layer.values, ""))
        if problems:
            raise UsageError("\n".join(f"{layer.source}: {name}: {message}" for name, message in problems))
        _merge(values, layer.values, layer.source, sources, "")
    try:
        config: Any = pydantic.TypeAdapter(config_class).validate_python(values)
    except pydantic.ValidationError as error:
        raise UsageError("\n".join(_explain(problem, sources) for problem in error.errors())) from error
    return Resolved(config, {name: sources.get(name, "default") for name in flatten(to_dict(config))})


def look_over(config_class: type, values: Mapping[str, Any]) -> tuple[Any, list[tuple[str, str]]]:
    """Return the config of these values and no problem, or None and every problem as (dotted name, message).

    A message about several settings has no name.
    """
    if unknown := list(_unknown_keys(config_class, values, "")):
        return None, unknown
    try:
        return pydantic.TypeAdapter(config_class).validate_python(values), []
    except pydantic.ValidationError as error:
        return None, [_named_problem(problem) for problem in error.errors()]
    except UsageError as error:
        return None, [("", str(error))]


def validated(config_class: type[T], source: str, values: Mapping[str, Any]) -> T:
    """Return a validated config, of values that were looked at as layers where they were read."""
    return resolve(config_class, [Layer(source, values, typed=True)]).config


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain values, ready for YAML or JSON."""
    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name; an empty mapping stays a value."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def config_text(resolved: Resolved) -> str:
    """Return one line per setting: name, value and where the value comes from."""
    flat = flatten(to_dict(resolved.config))
    width = max(map(len, flat), default=0)
    return "\n".join(
        f"{name:<{width}}  {json.dumps(redacted(value), ensure_ascii=False)}  "
        f"# {redact_urls(_source(resolved.sources, name))}"
        for name, value in flat.items()
    )


def _source(sources: dict[str, str], name: str) -> str:
    while name not in sources and "." in name:
        name = name.rpartition(".")[0]
    return sources.get(name, "default")


def _merge(into: dict, values: Mapping, source: str, sources: dict[str, str], prefix: str) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value, source, sources, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            into[name] = {}
            _merge(into[name], value, source, sources, f"{prefix}{name}.")
            sources[prefix + name] = source
        else:
            into[name] = value
            sources[prefix + name] = source


def _unknown_keys(config_class: Any, values: Any, prefix: str) -> typing.Iterator[tuple[str, str]]:
    if typing.get_origin(config_class) is tuple and isinstance(values, list):
        for number, value in enumerate(values):
            yield from _unknown_keys(typing.get_args(config_class)[0], value, f"{prefix}{number}.")
        return
    config_class = _dataclass_of(config_class)
    if config_class is None or not isinstance(values, Mapping):
        return
    hints = typing.get_type_hints(config_class)
    names = [item.name for item in dataclasses.fields(config_class)]
    for name, value in values.items():
        if name in names:
            yield from _unknown_keys(hints[name], value, f"{prefix}{name}.")
            continue
        near = difflib.get_close_matches(str(name), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        yield f"{prefix}{name}", f"unknown setting ({hint})"


def _dataclass_of(annotation: Any) -> type | None:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next((arm for arm in typing.get_args(annotation) if dataclasses.is_dataclass(arm)), None)
    return annotation if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else None


def _named_problem(problem: Any) -> tuple[str, str]:
    """Return a problem of pydantic as a dotted name, "" where none is known, and what is wrong."""
    name = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return name, "has no value"
    value = problem["input"]
    if not (isinstance(value, Mapping) or problem["type"] == "value_error"):
        message = f"{message} (given: {value!r})"
    if not name and ": " in message:  # a check of the whole that names a setting itself
        head, _, rest = message.partition(": ")
        return (head, rest) if head.replace("_", "").isalnum() else ("", message)
    return name, message


def _explain(problem: Any, sources: dict[str, str]) -> str:
    if problem["type"] == "missing":
        name = ".".join(str(part) for part in problem["loc"])
        return f"{name}: has no value; give it in the recipe, with --set {name}=… or by its flag"
    name, message = _named_problem(problem)
    source = _source(sources, name)
    where = "" if source == "default" and not problem["loc"] else f" [{source}]"  # checks across settings may name none
    return f"{name + ': ' if name else ''}{message}{where}"
