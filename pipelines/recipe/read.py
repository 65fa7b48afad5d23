"""Recipe files with what they extend, and what is typed over them.

A recipe that extends another says what is different: mappings merge, lists and scalars replace, null removes. A step of
another kind and an entry of `models` replace whole.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path as LocalPath
from typing import Any

from pipelines.recipe.old_form import OLD_KEYS, new_form
from schemas.errors import UsageError
from schemas.file_settings import MAX_DEPTH
from schemas.recipe import Path, Place, Problem, Written, near, read_yaml_with_places, written
from transforms.tables import storage

RECIPES = LocalPath(__file__).parent.parent / "recipes"
KEYS = ("name", "extends", "seed", "toy", "values", "models", "steps")
NEW_KEYS = {"extends", "values", "steps"}  # which the old form had not
GROUP = "each of a group"  # no stage kind is called so


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with alignbeam."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(recipe: str | Mapping[str, Any], problems: list[Problem]) -> Written:
    """Return a recipe, of a file, a bundled one's name or plain data, merged over all that it extends.

    Problems are appended. UsageError where a file cannot be read, has the form of before, or extends itself.
    """
    layers, files = [], []
    if isinstance(recipe, str):
        files.append(_file_of(recipe, ""))
        layer = _read(files[0], problems)
    else:
        layer = written(recipe, Place("recipe"))
    while True:
        values = _values_of(layer, problems)
        extends = values.pop("extends", None)
        layers.append(Written(values, layer.place))
        if extends is None or extends.value is None:
            break
        if not isinstance(extends.value, str):
            problems.append(Problem(extends.place, "extends", "expected a bundled recipe's name or a file"))
            break
        file = _file_of(extends.value, files[-1] if files else "")
        if file in files or len(files) > MAX_DEPTH:  # links can give one file ever new names
            circle = " → ".join([*files[files.index(file) if file in files else 0 :], file])
            raise UsageError(f"{extends.place}: extends: a circle: {circle}")
        files.append(file)
        layer = _read(file, problems, f"{extends.place}: extends: ")
    whole = layers.pop()
    while layers:
        whole = merged(whole, layers.pop(), replaces=_is_another)
    return whole


def with_settings(recipe: Written, values: Mapping[str, Any], source: str, problems: list[Problem]) -> Written:
    """Return a recipe with what was typed merged in; `source` is the flag, such as `--set steps.a.count=3`."""
    typed = _values_of(written(values, Place(source, typed=True)), problems)
    if typed.pop("extends", None):
        problems.append(Problem(Place(source), "extends", "is for files; give the recipe that extends another"))
    return merged(recipe, Written(typed, Place(source, typed=True)))


def merged(
    below: Written, above: Written, path: Path = (), replaces: Callable[[Path, Written, Written], bool] | None = None
) -> Written:
    """Return one value over another; `replaces` says which mappings replace whole."""
    both = isinstance(below.value, dict) and isinstance(above.value, dict)
    if not both or (replaces and replaces(path, below, above)):
        return above
    values = dict(below.value)
    for key, item in above.value.items():
        if key not in values:
            values[key] = item
        elif item.value is None:
            del values[key]
        else:
            values[key] = merged(values[key], item, (*path, key), replaces)
    return Written(values, below.place)


def beside(path: str, source: str) -> str:
    """Return a path as the file that says it means it; relative ones lie beside that file."""
    folder = "" if "://" in path or path.startswith(("/", "~")) else storage.folder_of(source)
    whole = storage.join(folder, path) if folder else path
    return whole if "://" in whole else os.path.normpath(whole)


def _file_of(name: str, source: str) -> str:
    return str(RECIPES / f"{name}.yaml") if name in recipe_names() else beside(name, source)


def _read(file: str, problems: list[Problem], said: str = "") -> Written:
    try:
        return read_yaml_with_places(file, problems)
    except UsageError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        hint = f", and no recipe that comes along; {near(file.rpartition('/')[2], recipe_names())}" if missing else ""
        raise UsageError(f"{said}{error}{hint}") from error


def _values_of(layer: Written, problems: list[Problem]) -> dict[str, Written]:
    """Return the values of a recipe's own keys; note all others."""
    if not isinstance(layer.value, dict):
        problems.append(Problem(layer.place, "", "expected a recipe: name, models, steps"))
        return {}
    if layer.value.keys() & OLD_KEYS and not layer.value.keys() & NEW_KEYS and not layer.place.typed:
        raise UsageError(
            f"{layer.place.source}: has the form of before, with {', '.join(sorted(layer.value.keys() & OLD_KEYS))}. "
            f"A recipe names its steps now; write this in its place:\n\n{new_form(layer.plain())}"
        )
    values = {}
    for key, item in layer.value.items():
        if key in KEYS:
            values[key] = item
        else:
            problems.append(Problem(item.place, key, f"unknown; {near(key, KEYS)}"))
    return values


def _is_another(path: Path, below: Written, above: Written) -> bool:
    """Return whether what is above is an entry of `models`, or a step or group of another kind."""
    if path[:1] == ("models",):
        return len(path) == 2
    is_step = path[:1] == ("steps",) and (len(path) == 2 or (len(path) == 4 and path[2] == "steps"))
    return is_step and _kind(above) not in (None, _kind(below))


def _kind(entry: Written) -> Any:
    if "stage" in entry.value:
        return entry.value["stage"].value
    return GROUP if entry.value.keys() & {"each", "steps"} else None
