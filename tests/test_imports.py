"""Who may import whom, and that the core works where nothing heavy is installed."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Imports point one way.
MAY_IMPORT = {
    "schemas": {"schemas"},
    "transforms": {"schemas", "transforms"},
    "training": {"schemas", "transforms", "training", "alignbeam"},  # of transforms what is free of Beam, see below
    "pipelines": {"schemas", "transforms", "training", "pipelines", "alignbeam"},
}
OURS = {"alignbeam", *MAY_IMPORT}
# Inside a package, floor by floor: a room imports rooms of lower floors, none beside it. "" are modules in no folder.
FLOORS = {
    "transforms": (
        {"tables", "texts", "engines"},
        {"prompts", "corpora", "generation"},
        {"synthesis", "curation", "evaluation"},
        {"training_data"},
        {"alignment"},
    ),
    "pipelines": ({"runtime"}, {"report"}, {""}, {"recipe"}, {"commands"}),
}
MOST_LINES = {"module": 400, "function": 60}
# What the extras bring: the core has none of it.
HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "sklearn",
    "safetensors",
    "tokenizers",
)
VAGUE = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}


def modules_of(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of a package."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = {name: file for package in MAY_IMPORT for name, file in modules_of(package).items()}


def imports(source: str) -> set[str]:
    """What a module imports anywhere, functions included, as dotted names; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: name the package, so that directions can be seen"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def imports_of(name: str) -> frozenset[str]:
    return frozenset(imports(MODULES[name].read_text(encoding="utf-8")))


def reached_from(name: str) -> set[str]:
    """The modules of ours that importing one brings in, itself and the packages around them included."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in reached or module not in MODULES:
            continue
        reached.add(module)
        waiting += [*imports_of(module), module.rpartition(".")[0]]
    return reached


def test_imports_sees_plain_and_nested_ones() -> None:
    assert imports("import a.b\ndef f():\n    from c import d\n") == {"a.b", "c", "c.d"}


def test_imports_point_one_way() -> None:
    astray = [
        f"{name} imports {imported}"
        for name in MODULES
        for imported in sorted(imports_of(name))
        if (top := imported.partition(".")[0]) in OURS and top not in MAY_IMPORT[name.partition(".")[0]]
    ]
    assert astray == []


def room_of(name: str) -> tuple[str, str]:
    """The floor's word for where a module lies, and the room itself: every stage module is one of its own."""
    package, _, rest = name.partition(".")
    folder = MODULES[name].parent.relative_to(ROOT / package).parts
    return (folder[0], folder[0]) if folder else ("", rest)


def modules_imported_by(name: str) -> set[str]:
    """Our modules that one imports, functions included; `from package import module` counts as the module."""
    named = imports_of(name)
    packages = {dotted for dotted in named if any(other.startswith(f"{dotted}.") for other in named & MODULES.keys())}
    return (named & MODULES.keys()) - packages - {name}


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_lower_floors_only(package: str) -> None:
    floors = FLOORS[package]
    floor_of = {word: number for number, words in enumerate(floors) for word in words}
    rooms = {name: room_of(name) for name in MODULES if name.startswith(f"{package}.")}
    assert {word for word, _ in rooms.values()} == set().union(*floors)
    astray = [
        f"{name} imports {imported}"
        for name, (word, room) in rooms.items()
        for imported in sorted(modules_imported_by(name) & rooms.keys())
        if rooms[imported][1] != room and floor_of[rooms[imported][0]] >= floor_of[word]
    ]
    assert astray == []


def test_no_imports_go_in_a_circle() -> None:
    left = {name: modules_imported_by(name) for name in MODULES}
    while ends := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in ends:
            del left[name]
    assert sorted(left) == []  # what stays is in a circle, or imports one


def test_modules_and_functions_are_short() -> None:
    long = []
    for name, file in MODULES.items():
        source = file.read_text(encoding="utf-8")
        if (lines := source.count("\n")) > MOST_LINES["module"]:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_LINES["function"]:
                    long.append(f"{name}.{node.name}: {lines} lines")
    assert long == []


def test_trainers_and_engines_never_reach_beam() -> None:
    guilty = [
        f"{name} through {module}"
        for name in MODULES
        if name.startswith(("training", "transforms.engines"))
        for module in sorted(reached_from(name))
        if any(imported.startswith("apache_beam") for imported in imports_of(module))
    ]
    assert guilty == []


def test_core_imports_without_torch() -> None:
    core = [name for name in MODULES if not name.startswith(("training", "transforms.engines."))]
    code = f"""
import importlib, importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
for name in {[*core, "transforms.engines.scripted", "transforms.engines.server"]}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_modules_are_named_after_an_idea_and_say_which() -> None:
    assert [name for name in MODULES if name.rpartition(".")[2] in VAGUE] == []
    sources = {name: file.read_text(encoding="utf-8") for name, file in MODULES.items()}
    assert [name for name, source in sources.items() if source and not ast.get_docstring(ast.parse(source))] == []


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {file.parent for file in MODULES.values()}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
