"""The documents tell the truth: their commands have the flags that they show, and their recipes are whole."""

import contextlib
import importlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

import alignbeam
from pipelines.recipe.graph import Told, read_graph
from pipelines.recipe.registry import STAGES

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
DOCUMENTS += ["deploy/flink.md", "deploy/dataflow.md"]
LINE = re.compile(r"^    (alignbeam [a-z].*|python -m (?:pipelines|training)\.[a-z_]+.*)$", re.MULTILINE)
QUOTED = re.compile(r"`(alignbeam [a-z][^`]*|python -m (?:pipelines|training)\.[a-z_]+[^`]*)`")
FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
RECIPE = re.compile(r"^(?:name|extends): .*", re.MULTILINE)
BROUGHT = {"question": "Why?", "response": "No.", "correction": "Because it rains."}


def text_of(document: str) -> str:
    return re.sub(r"\\\n\s*", "", (ROOT / document).read_text(encoding="utf-8"))


def commands_in(document: str) -> list[str]:
    """The commands that a document shows, without comments and without what goes to Beam."""
    text = text_of(document)
    lines = [re.split(r" +# | {4,}", line)[0] for line in LINE.findall(text)] + QUOTED.findall(text)
    ours = [re.split(r"\s--(?=\s|$)", line)[0] for line in lines]
    return list(dict.fromkeys(part.strip() for line in ours for part in line.split(";")))


def help_of(words: list[str]) -> str:
    """What `--help` says of a command."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        if words[0] == "python":
            importlib.import_module(words[2]).main(["--help"])
        elif words[1] == "train" and words[2:3] in (["inspector"], ["aligner"]):
            alignbeam.main(["train", "--help"])
            importlib.import_module(f"training.{words[2]}").main(["--help"])
        else:
            alignbeam.main([*words[1 : 3 if words[1:3] == ["train", "squad"] else 2], "--help"])
    return out.getvalue()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_the_flags_that_are_shown(document):
    strange = []
    for command in commands_in(document):
        words = [word for word in shlex.split(command.replace("…", "X").replace("'", '"')) if word]
        flags = {word.partition("=")[0] for word in words[3 if words[0] == "python" else 2 :] if FLAG.fullmatch(word)}
        if words[0] == "python" and not hasattr(importlib.import_module(words[2]), "main"):
            words = ["alignbeam", words[2].rpartition(".")[2].replace("ingest", "import")]
        said = help_of(words)
        assert said, command
        strange += [f"{command}: {flag}" for flag in flags - set(FLAG.findall(said))]
    assert strange == []


def recipes_in(document: str) -> list[str]:
    """The whole recipes that a document shows: blocks of YAML, or indented lines, with steps."""
    text = text_of(document)
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    blocks += [
        re.sub("^    ", "", block, flags=re.MULTILINE)
        for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.M)
    ]
    return [block.strip("\n") + "\n" for block in blocks if RECIPE.match(block.strip()) and "steps:" in block]


def test_the_flags_of_run_are_explained():
    own = help_of(["alignbeam", "run"]).partition("Flags of Beam")[0]
    flags = {flag for flag in FLAG.findall(own) if len(flag) > 2 and "--no-" not in flag}
    flags -= {"--help", "--output", "--print-config", "--nproc-", "--nproc-per-node"}  # an older name; torchrun's own
    assert flags - set(FLAG.findall(text_of("docs/recipes.md"))) == set()


@pytest.mark.parametrize("document", ["README.md", "docs/recipes.md", "docs/squads.md"])
def test_recipes_are_whole(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes((ROOT / "schemas" / "criteria" / "ethical.yaml").read_bytes())
    for name in ("questions.jsonl", "responses.jsonl"):
        (tmp_path / name).write_text(json.dumps(BROUGHT) + "\n")
    recipes = recipes_in(document)
    assert recipes
    for number, recipe in enumerate(recipes):
        (tmp_path / f"recipe-{number}.yaml").write_text(recipe)
        assert read_graph(f"recipe-{number}.yaml", STAGES, Told(is_look=True)).steps
