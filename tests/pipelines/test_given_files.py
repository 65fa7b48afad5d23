"""Attacks by files that a user was given, run for real: a canary would tell by a file that its code ran."""

import os
from pathlib import Path

import pytest

import alignbeam
from pipelines.commands import align, check, evaluate, run
from schemas.errors import UsageError
from transforms.engines.engine import EngineConfig
from transforms.engines.inspector import inspector_digest, open_inspector
from transforms.engines.running import close_engines, open_engine
from transforms.engines.scripted import ScriptedInspector

CANARY = """
from pathlib import Path

Path({song!r}).write_text("imported")


def sing(*_):
    Path({song!r}).write_text("called")
    return 0.5
"""


@pytest.fixture
def song(tmp_path, monkeypatch) -> Path:
    """The file that is written where a canary of its own name is imported or called, nobody having opted in."""
    song = tmp_path / "song"
    (tmp_path / f"canary_{tmp_path.name}.py").write_text(CANARY.format(song=str(song)))
    (tmp_path / "corpus.jsonl").write_text('{"question": "q", "response": "r"}\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGNBEAM_SCRIPTED")
    yield song
    close_engines()


@pytest.fixture
def function(tmp_path) -> str:
    return f"canary_{tmp_path.name}:sing"


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def squad_file(inspector: str, engine: str = "{}") -> str:
    return write("squad.yaml", f"members: [{{criterion: c, inspector: {inspector!r}, aligner: a, engine: {engine}}}]")


def recipe_file(**settings: str) -> str:
    questions = "questions: {stage: questions, model: teacher, pack: ethical}"
    lines = {"name": "r", "models": "{teacher: {model: m}}", "steps": f"{{{questions}}}", **settings}
    return write("recipe.yaml", "\n".join(f"{name}: {text}" for name, text in lines.items()))


def scripted(function: str) -> str:
    return f"{{engine: scripted, args: {{function: '{function}'}}}}"


def test_the_canary_sings_where_the_process_opted_in(song, function, monkeypatch):
    monkeypatch.setenv("ALIGNBEAM_SCRIPTED", "1")
    squad = squad_file(f"scripted:{function}", scripted(function))
    assert check.main([squad]) == 0
    align.main(["corpus.jsonl", "--squad", squad, "-o", "out"])
    assert song.read_text() == "called"


@pytest.mark.parametrize("kind", ["inspector", "engine"])
def test_a_squad_file_calls_no_function(song, function, kind, capsys):
    squad = squad_file(f"scripted:{function}") if kind == "inspector" else squad_file("i", scripted(function))
    key = "members.0.inspector" if kind == "inspector" else "members.0.engine.engine"
    for command in (check.main, lambda args: align.main(["corpus.jsonl", "--squad", *args, "-o", "out"])):
        assert command([squad]) == 2
        text = " ".join(capsys.readouterr().err.split())
        assert f"squad.yaml: {key}: 'scripted" in text
        assert "ALIGNBEAM_SCRIPTED=1" in text
    assert not song.exists()


def test_a_recipe_calls_no_function(song, function, capsys):
    for settings in (
        {"models": f"{{teacher: {scripted(function)}}}"},
        {"models": f"{{teacher: {{model: m}}, judge: {{model: 'scripted:{function}'}}}}"},
        {"models": "{teacher: {model: '{function}'}}", "values": f"{{function: 'scripted:{function}'}}"},
        {"models": "{teacher: '{engine}'}", "values": f"{{engine: {scripted(function)}}}"},
        {"steps": f"{{evaluation: {{stage: evaluate, aligned: a, pair_ranker: 'scripted:{function}'}}}}"},
    ):
        recipe = recipe_file(**settings)
        assert check.main([recipe]) == 2
        assert run.main([recipe, "-o", "out"]) == 2
        text = capsys.readouterr().err
        assert text.count("error: recipe.yaml:") == 2
        assert "ALIGNBEAM_SCRIPTED=1" in text
        assert "recipe.yaml:" in text
    assert not song.exists()


def test_flags_and_a_stages_own_file_call_no_function(song, function, tmp_path, capsys):
    (tmp_path / f"scripted:{function}").mkdir()  # such a folder may come with the corpus, and looks like a judge's
    write(f"scripted:{function}/config.json", "{}")
    settings = write("settings.yaml", f"engine: {scripted(function)}")
    for command, arguments in (
        (align.main, ["corpus.jsonl", "--aligner", "a", "--inspector", f"scripted:{function}"]),
        (align.main, ["corpus.jsonl", "--aligner", "a", "--inspector", "i", "--set", f"engine={scripted(function)}"]),
        (evaluate.main, ["aligned", "--inspector", f"judge=scripted:{function}"]),
        (evaluate.main, ["aligned", "--pair-ranker", f"scripted:{function}"]),
        (alignbeam.main, ["questions", "--criterion", "ethical", "--model", "m", "--config", settings]),
    ):
        assert command([*arguments, "-o", "out"]) == 2
        assert "ALIGNBEAM_SCRIPTED=1" in capsys.readouterr().err
    assert not song.exists()


def test_a_worker_imports_no_function_for_a_config_that_was_made_elsewhere(song, function, monkeypatch):
    monkeypatch.setenv("ALIGNBEAM_SCRIPTED", "1")
    config = EngineConfig(engine="scripted", args={"function": function})
    monkeypatch.setenv("ALIGNBEAM_SCRIPTED", "0")
    name = f"scripted:{function}"
    for use in (
        lambda: open_engine(config),
        lambda: open_inspector(name),
        lambda: ScriptedInspector(name),
        lambda: inspector_digest(name),
        lambda: EngineConfig(engine="scripted", args={"function": function}),
    ):
        with pytest.raises(UsageError, match="ALIGNBEAM_SCRIPTED=1"):
            use()
    assert not song.exists()


@pytest.fixture
def flags(root) -> list[str]:
    teacher = os.fspath(root / "demo" / "teacher")
    return ["--criterion", "ethical", "--model", teacher, "--count", "1", "-o", "out"]


def test_a_file_loads_no_code_into_vllm(song, function, flags, capsys):
    plugin = f"{function.partition(':')[0]}.py"
    settings = f"engine: {{style: chat, args: {{dtype: float32, reasoning_parser_plugin: {plugin}}}}}"
    assert alignbeam.main(["questions", *flags, "--config", write("settings.yaml", settings)]) == 2
    assert "settings.yaml: engine.args.reasoning_parser_plugin: no file may set it so" in capsys.readouterr().err
    assert not song.exists()


def test_a_squad_file_and_a_recipe_load_no_code_into_vllm(song, function, capsys):
    args = f"{{args: {{speculative_config: {{method: custom_class, model: {function.partition(':')[0]}}}}}}}"
    squad, recipe = squad_file("i", args), recipe_file(models=f"{{teacher: {args}}}")
    assert check.main([squad]) == align.main(["corpus.jsonl", "--squad", squad, "-o", "out"]) == 2
    assert check.main([recipe]) == run.main([recipe, "-o", "out"]) == 2
    text = capsys.readouterr().err
    assert text.count("squad.yaml: members.0.engine.args.speculative_config.method: no file may set it so") == 2
    assert text.count("recipe.yaml:2: models.teacher.args.speculative_config.model: no file may set it so") == 2


@pytest.mark.slow
def test_the_canary_sings_in_vllm_where_it_was_typed(song, function, flags):
    pytest.importorskip("vllm")
    plugin = f"{function.partition(':')[0]}.py"
    alignbeam.main(["questions", *flags, "--set", f"engine.args={{dtype: float32, reasoning_parser_plugin: {plugin}}}"])
    assert song.read_text() == "imported"
