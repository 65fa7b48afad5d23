"""The generating stages in order, with a scripted model: what is kept, what is asked again, and what is not."""

import re

import pyarrow.compute as pc
import pytest
import yaml

from pipelines import run as recipe
from pipelines import status
from schemas.config import Layer, resolve
from schemas.errors import StageError, UsageError
from transforms.tables import read_manifest, read_table

TEACHER = {"engine": "scripted", "args": {"function": "tests.scripted_models:teacher"}}
SETTINGS = {
    "name": "test",
    "criterion": "ethical",
    "models": {"teacher": TEACHER, "upstream": TEACHER},
    "stages": {"questions": {"count": 60, "topic_rounds": 1, "hints": 5}, "curate": {"rows_per_shard": 16}},
}


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "requests.log"
    monkeypatch.setenv("ALIGNBEAM_TEST_LOG", str(path))
    return lambda: path.read_text().split() if path.exists() else []


def job(tmp_path, *stages, settings=SETTINGS, **flags):
    config = resolve(
        recipe.Config, [Layer("test", settings), Layer("flags", {"output": str(tmp_path / "run"), **flags})]
    )
    job = recipe.Job(config.config, ())
    for name in stages:
        job.results[name] = getattr(job, name)()
        job.record.record(job.results[name], "complete", 0.0)
    return job.results


def changed(*path_and_value):
    *path, value = path_and_value
    settings = yaml.safe_load(yaml.safe_dump(SETTINGS))
    target = settings
    for part in path[:-1]:
        target = target.setdefault(part, {})
    target[path[-1]] = value
    return settings


def test_from_a_pack_to_training_shards(tmp_path, log):
    stages = job(tmp_path, "questions", "triples", "curate")
    questions = stages["questions"].table("questions").to_arrow()
    assert questions.num_rows == 60
    assert len(set(questions["question"].to_pylist())) == 60
    triples = stages["triples"].manifest["counts"]
    assert triples["in"] == 60 == triples["kept"] + sum(triples["drops"].values())
    assert triples["drops"]["missing_critique"] > 0
    curated = read_table(stages["curate"].directory).to_arrow()
    assert set(curated["split"].to_pylist()) <= {"train", "validation", "test"}
    aligner = read_table(f"{stages['curate'].directory}/aligner/train").to_arrow()
    assert aligner.num_rows == pc.sum(pc.equal(curated["split"], "train")).as_py()
    assert len(log()) == len(set(log()))


def test_nothing_is_asked_twice(tmp_path, log):
    first = job(tmp_path, "questions", "triples")
    asked = len(log())
    assert job(tmp_path, "questions", "triples")["triples"].directory == first["triples"].directory
    assert len(log()) == asked


def test_a_filter_downstream_regenerates_nothing(tmp_path, log):
    first = job(tmp_path, "questions", "triples")
    asked = len(log())
    second = job(tmp_path, "questions", "triples", settings=changed("stages", "triples", "english", True))
    assert second["triples"].directory != first["triples"].directory
    assert len(log()) == asked


def test_a_demonstration_regenerates_only_what_depends_on_it(tmp_path, log):
    from schemas.config import to_dict
    from schemas.criteria import load_pack

    pack = to_dict(load_pack("ethical"))
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(pack))
        pack["demonstrations"][0]["correction"] += " And be kind."
    first = job(tmp_path, "questions", "triples", settings=changed("criterion", str(tmp_path / "a.yaml")))
    asked = len(log())
    second = job(tmp_path, "questions", "triples", settings=changed("criterion", str(tmp_path / "b.yaml")))
    assert second["questions"].directory == first["questions"].directory
    assert len(log()) == asked + 60


def test_a_larger_limit_extends(tmp_path, log):
    small = job(tmp_path, "questions", "triples", limit=30)
    assert small["triples"].manifest["counts"]["in"] == 30
    asked = set(log())
    large = job(tmp_path, "questions", "triples")
    ids = [stages["questions"].table("questions").to_arrow()["id"].to_pylist() for stages in (small, large)]
    assert set(ids[0]) <= set(ids[1])
    assert asked <= set(log())
    assert len(log()) == len(set(log()))


def test_shard_size_and_workers_change_nothing(tmp_path, log, monkeypatch):
    first = job(tmp_path / "a", "questions", "triples")["triples"].table("triples").to_arrow()
    asked = set(log())
    monkeypatch.setattr("pipelines.questions.SHARD_ROWS", 7)
    monkeypatch.setattr("transforms.tables.CHUNK_ROWS", 5)
    second = job(tmp_path / "b", "questions", "triples")["triples"].table("triples")
    assert len(second.shards) == 9
    assert second.to_arrow().equals(first)
    assert set(log()) == asked


def test_failed_rows_are_rejects_and_can_be_asked_again(tmp_path, log, monkeypatch):
    failing = {"engine": "scripted", "args": {"function": "tests.scripted_models:failing"}}
    settings = changed("models", "teacher", failing)
    settings["stages"]["questions"]["question_rounds"] = 3
    stages = job(tmp_path, "questions", "triples", settings=settings)
    counts = stages["triples"].manifest["counts"]
    assert counts["rejects"]["server_error"] > 0
    asked = len(log())
    monkeypatch.setenv("ALIGNBEAM_TEST_HEALED", "1")
    again = job(tmp_path, "questions", "triples", settings=settings)
    assert again["triples"].manifest["counts"] == counts
    healed = job(tmp_path, "questions", "triples", settings=settings, retry_failed=True)
    assert healed["triples"].manifest["counts"]["rejects"] == {}
    assert len(log()) == asked + counts["rejects"]["server_error"]


def test_too_small_a_yield_stops_loudly(tmp_path):
    settings = changed("stages", "triples", "minimum_yield", 0.99)
    with pytest.raises(
        StageError, match=r"triples: \d+ of 60 rows survived, under the floor of 99%: \d+ missing_critique"
    ):
        job(tmp_path, "questions", "triples", settings=settings)
    assert (tmp_path / "run" / "triples").exists()


def test_only_needs_what_comes_before(tmp_path):
    with pytest.raises(UsageError, match="--only curate: stage triples is not complete"):
        job(tmp_path, "curate", only="curate")


def test_a_recipe_without_a_model_is_refused(capsys, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(changed("models", {})))
    assert recipe.main([str(path), "-o", str(tmp_path / "run")]) == 2
    assert "give one with --model" in capsys.readouterr().err


def test_what_was_edited_is_said(tmp_path, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    arguments = [str(path), "-o", str(tmp_path / "run"), "--only", "questions"]
    assert recipe.main(arguments) == 0
    assert recipe.main([*arguments, "--set", "stages.questions.hints=4"]) == 0
    said = capsys.readouterr().err
    assert "stages.questions.hints: 5 → 4" in said
    assert "stale    questions and what follows" in said
    assert status.main([str(tmp_path / "run")]) == 0
    assert read_manifest(str(next((tmp_path / "run" / "questions").iterdir())))["counts"]["kept"] == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.yaml", "-o", "x"], "absent.yaml: no such file"),
        (["{recipe}", "-o", "x", "--only", "trian"], "no stage 'trian'"),
        (["{recipe}", "-o", "x", "--limit", "0"], "limit: must be at least 1"),
        (["{recipe}", "-o", "x", "--limit", "ten"], "limit: .*integer"),
        (["{recipe}", "-o", "x", "--set", "stages.triple.english=true"], "did you mean 'triples'"),
        (["{recipe}", "-o", "x", "--", "--runnner=FlinkRunner"], "Beam knows no option --runnner"),
        (["{recipe}", "-o", "/proc/nowhere"], "cannot write there"),
        (["{recipe}"], "output: has no value"),
    ],
)
def test_wrong_use_is_told_before_any_work(tmp_path, monkeypatch, capsys, arguments, message):

    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(SETTINGS))
    assert recipe.main([argument.replace("{recipe}", "r.yaml") for argument in arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob("x/questions*"))
