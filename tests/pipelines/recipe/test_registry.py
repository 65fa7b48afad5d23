"""Every stage kind: one module, one line in the registry, one test module, one row in docs/recipes.md.

`python tests/pipelines/recipe/test_registry.py` prints the tables of docs/recipes.md anew.
"""

import ast
import dataclasses
import re
import sys
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import alignbeam
from pipelines.recipe.graph import Told, read_graph
from pipelines.recipe.registry import STAGES
from pipelines.runtime.edges import EdgeChecker
from pipelines.runtime.step import ModelKind, StageKind
from schemas.fields import Takes

ROOT = Path(__file__).parents[3]
ARTICLES = {"a": "a ", "e": "an ", "i": "an "}
# One step of each kind that the recipe `squad` has not, so that all tables can be told.
MORE = {
    "steps": {
        "scores": {"stage": "score", "responses": "responses", "inspectors": {"ethical": "ethical/inspector"}},
        "shards": {"stage": "shards", "data": "ethical/curated", "trainer": "aligner"},
        "part": {"stage": "derive", "tables": ["ethical/questions"], "limit": 10},
    }
}


def stage_modules() -> list[str]:
    return sorted(file.stem for file in (ROOT / "pipelines").glob("*.py") if file.stem != "__init__")


def module_of(kind: StageKind) -> str:
    """The stage module that a kind comes from; trainers have their Configs in `training`."""
    package, _, name = kind.config.__module__.partition(".")
    return "train" if package == "training" else name


def tree_of(folder: str, name: str) -> ast.Module:
    return ast.parse((ROOT / folder / f"{name}.py").read_text(encoding="utf-8"))


def imports_of(tree: ast.Module) -> set[str]:
    """What a module imports anywhere; `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", STAGES)
def test_every_kind_is_a_command_whose_help_names_what_it_takes(name, capsys):
    assert name in re.split(r"[ ,.\n]+", alignbeam.__doc__)
    with pytest.raises(SystemExit):
        alignbeam.main([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ("--launch LAUNCH" in said) == STAGES[name].trains
    assert "-o OUTPUT, --output OUTPUT folder of the trained" not in said
    unflagged = [field.name for field in dataclasses.fields(STAGES[name].config) if "help" not in field.metadata]
    if name not in ("align", "curate", "evaluate", "import"):  # commands of their own settings
        assert f"these have no flag: {', '.join([*unflagged, 'engine'])}" in said


def test_a_command_that_is_none_is_told_the_nearest(capsys):
    assert alignbeam.main(["tripels"]) == 2
    assert capsys.readouterr().err == "error: no command 'tripels'; did you mean 'triples'?\n"


def test_every_stage_module_is_in_the_registry():
    assert sorted({module_of(kind) for kind in STAGES.values()}) == stage_modules()


def test_a_kind_is_called_as_the_registry_calls_it():
    assert {name: kind.name for name, kind in STAGES.items()} == {name: name for name in STAGES}
    assert list(STAGES) == sorted(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_kind_says_what_it_is_and_what_it_gives(name):
    kind = STAGES[name]
    assert ast.get_docstring(tree_of("pipelines", module_of(kind)))
    assert kind.about
    assert not kind.about.endswith(".")
    assert dataclasses.is_dataclass(kind.config)


@pytest.mark.parametrize("name", STAGES)
def test_a_kind_has_tests_of_its_own(name):
    module = module_of(STAGES[name])
    imported = imports_of(tree_of("tests/pipelines", f"test_{module}"))
    assert imported & {f"pipelines.{module}", f"pipelines.commands.{module}"}


def test_no_stage_module_imports_another():
    modules = {f"pipelines.{name}" for name in stage_modules()}
    astray = {name: imports_of(tree_of("pipelines", name)) & modules for name in stage_modules()}
    assert {name: imported for name, imported in astray.items() if imported} == {}


def table_of_kinds() -> str:
    """The table of docs/recipes.md: what each kind does, takes, uses and gives."""
    given = tables_given()
    lines = ["| kind | what it does | takes and uses | gives |", "| --- | --- | --- | --- |"]
    for name, kind in STAGES.items():
        inputs = "; ".join(inputs_of(kind.config)) or "nothing of the recipe"
        lines.append(f"| `{name}` | {kind.about} | {inputs} | {given[name]} |")
    return "\n".join(lines)


def list_of_settings() -> str:
    """The list of docs/recipes.md: the settings of each kind."""
    return "\n".join(f"- `{name}`: {', '.join(settings_of(kind.config))}" for name, kind in STAGES.items())


def inputs_of(config: type, prefix: str = "") -> Iterator[str]:
    """Each input or model of a Config: its field, and the columns or the role that it needs."""
    for item, parts in fields_of(config):
        path, edge = prefix + item.name, item.metadata.get("edge")
        optional = "" if item.default is dataclasses.MISSING else "?"
        if isinstance(edge, Takes):
            columns = [*edge.columns, *(["*answer*"] if edge.answer else [])]
            yield f"`{path}`{optional} ({', '.join(columns)})"
        elif edge:
            yield f"`{path}`{optional} ({ARTICLES.get(edge.role[0], 'a ')}{edge.role})"
        elif parts:
            yield from inputs_of(parts, f"{path}.")


def settings_of(config: type) -> Iterator[str]:
    """The settings of a Config that a recipe gives, without inputs and models."""
    for item, parts in fields_of(config):
        if not item.metadata.get("of_run") and "edge" not in item.metadata:
            own = [part.name for part, _ in fields_of(parts) if "edge" not in part.metadata] if parts else []
            yield f"`{item.name}`" + (f" (`{'`, `'.join(own)}`)" if own else "")


def fields_of(config: type) -> Iterator[tuple[dataclasses.Field, type | None]]:
    """The fields of a Config, each with the dataclass of its parts where those have inputs or models."""
    hints = typing.get_type_hints(config)
    for item in dataclasses.fields(config):
        parts = [part for part in typing.get_args(hints[item.name]) if dataclasses.is_dataclass(part)]
        with_edges = [part for part in parts if any("edge" in inner.metadata for inner in dataclasses.fields(part))]
        yield item, next(iter(with_edges), None)


def tables_given() -> dict[str, str]:
    """What each kind gives: its tables, the main one first, with its answer; or what its model can be."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        file.write_text('{"question": "Why?"}\n')
        told = Told(sets=MORE | {"values": {"questions": str(file)}}, models={"teacher": "m", "upstream": "m"})
        graph = read_graph("squad", STAGES, told)
        checker = EdgeChecker(graph.steps, lambda *problem: pytest.fail(str(problem)))
        checker.check()
    given = {}
    for step in graph.steps:
        tables = checker.given[step.name]
        if isinstance(tables, ModelKind):
            given[step.kind.name] = "a model: " + ", ".join(tables.roles)
            continue
        main, *others = (f"`{name}`" for name in tables)
        answer = f" (answer: `{step.kind.answer}`)" if step.kind.answer else ""
        given[step.kind.name] = ", ".join([f"**{main}**{answer}", *others])
    return given


@pytest.mark.parametrize("part", [table_of_kinds, list_of_settings])
def test_the_docs_say_of_every_kind_what_the_registry_says(part):
    assert part() in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.write(f"{table_of_kinds()}\n\n{list_of_settings()}\n")
