"""The generating stages in order, with a scripted model: what is kept, what is asked again, and what is not."""

import re

import pyarrow.compute as pc
import pytest
import yaml

from pipelines.commands import run as recipe
from pipelines.commands import status
from pipelines.recipe.job import Job, models_of
from pipelines.recipe.recipe import Config
from schemas.criteria.pack import load_pack
from schemas.errors import StageError, UsageError
from schemas.settings import Layer, resolve, to_dict
from transforms.tables import storage
from transforms.tables.table import read_table

TEACHER = {"engine": "scripted", "args": {"function": "tests.scripted_models:teacher"}}
FAILING = {"engine": "scripted", "args": {"function": "tests.scripted_models:failing"}}
FAILING_QUESTIONS = {"engine": "scripted", "args": {"function": "tests.scripted_models:failing_questions"}}
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
    config = resolve(Config, [Layer("test", settings), Layer("flags", {"output": str(tmp_path / "run"), **flags})])
    job = Job(config.config, ())
    for name in stages:
        job.results[name] = getattr(job, name)()
        job.record.write_stage(job.results[name], "complete", 0.0)
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
    triples = stages["triples"].read_manifest()["counts"]
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
    assert small["triples"].read_manifest()["counts"]["in"] == 30
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
    monkeypatch.setattr("transforms.tables.shards.CHUNK_ROWS", 5)
    second = job(tmp_path / "b", "questions", "triples")["triples"].table("triples")
    assert len(second.shards) == 9
    assert second.to_arrow().equals(first)
    assert set(log()) == asked


def failing_triples():
    """The seeds are questions enough, so that triples alone are asked for."""
    settings = changed("stages", "questions", "count", 20)
    settings["models"]["teacher"] = FAILING
    return settings


def test_failed_rows_are_rejects_and_can_be_asked_again(tmp_path, log, monkeypatch):
    settings = failing_triples()
    stages = job(tmp_path, "questions", "triples", settings=settings)
    counts = stages["triples"].read_manifest()["counts"]
    assert counts["rejects"]["server_error"] > 0
    asked = len(log())
    monkeypatch.setenv("ALIGNBEAM_TEST_HEALED", "1")
    again = job(tmp_path, "questions", "triples", settings=settings)
    assert again["triples"].read_manifest()["counts"] == counts
    healed = job(tmp_path, "questions", "triples", settings=settings, retry_failed=True)
    assert healed["triples"].read_manifest()["counts"]["rejects"] == {}
    assert len(log()) == asked + counts["rejects"]["server_error"]


def test_a_retry_that_cannot_begin_leaves_a_complete_stage_as_it_was(tmp_path, log, monkeypatch):
    settings = failing_triples()
    before = job(tmp_path, "questions", "triples", settings=settings)["triples"]
    counts, rows = before.read_manifest()["counts"], before.table("triples").to_arrow()
    monkeypatch.setenv("ALIGNBEAM_TEST_GONE", "1")
    with pytest.raises(UsageError, match="^http://gone: no server answers there$"):
        job(tmp_path, "questions", "triples", settings=settings, retry_failed=True)
    assert before.read_manifest()["counts"] == counts
    assert before.table("triples").to_arrow().equals(rows)
    monkeypatch.delenv("ALIGNBEAM_TEST_GONE")
    monkeypatch.setenv("ALIGNBEAM_TEST_HEALED", "1")
    healed = job(tmp_path, "questions", "triples", settings=settings, retry_failed=True)["triples"]
    assert healed.read_manifest()["counts"]["rejects"] == {}


def test_failed_rows_of_an_incomplete_stage_are_asked_again(tmp_path, log, monkeypatch):
    settings = failing_triples()
    monkeypatch.setattr("pipelines.questions.SHARD_ROWS", 7)
    broken = job(tmp_path, "questions", "triples", settings=settings)["triples"]
    entries = [f"{broken.directory}/entries/shard-{shard:05d}.json" for shard in (0, 1, 2)]
    assert all(storage.read_json(entry)["rejects"] for entry in entries)
    storage.remove(f"{broken.directory}/manifest.json")
    storage.remove(entries[2])
    monkeypatch.setenv("ALIGNBEAM_TEST_HEALED", "1")
    healed = job(tmp_path, "questions", "triples", settings=settings, retry_failed=True)["triples"]
    assert healed.directory == broken.directory
    assert healed.read_manifest()["counts"]["rejects"] == {}


def test_what_failed_costs_questions_only_where_too_few_are_left(tmp_path, log, monkeypatch, capsys):
    settings = changed("models", "teacher", FAILING_QUESTIONS)
    enough = job(tmp_path, "questions", settings=settings)["questions"].read_manifest()["counts"]
    assert enough["kept"] == 60
    assert enough["rejects"] == {}
    assert enough["drops"]["server_error"] > 0
    settings["stages"]["questions"]["question_rounds"] = 1
    few = job(tmp_path, "questions", settings=settings)["questions"]
    counts = few.read_manifest()["counts"]
    assert counts["kept"] < 60
    assert counts["rejects"]["server_error"] == few.table("rejects").rows > 0
    assert (
        f"questions: {counts['kept']} of the 60 asked for: the rounds were used up; raise question_rounds (now 1)"
        in (capsys.readouterr().err.replace("\n", " "))
    )
    monkeypatch.setenv("ALIGNBEAM_TEST_HEALED", "1")
    assert job(tmp_path, "questions", settings=settings)["questions"].read_manifest()["counts"] == counts
    healed = job(tmp_path, "questions", settings=settings, retry_failed=True)["questions"]
    assert healed.directory == few.directory
    assert healed.read_manifest()["counts"]["rejects"] == {}
    never_failed = changed("stages", "questions", "question_rounds", 1)
    other = job(tmp_path / "other", "questions", settings=never_failed)["questions"]
    assert healed.table("questions").to_arrow().equals(other.table("questions").to_arrow())


def test_failed_topics_are_rejects_too(tmp_path, log, monkeypatch):
    settings = changed("models", "teacher", FAILING)
    few = job(tmp_path, "questions", settings=settings)["questions"].read_manifest()["counts"]
    assert few["kept"] < 60
    assert few["rejects"]["server_error"] > 0
    monkeypatch.setenv("ALIGNBEAM_TEST_HEALED", "1")
    healed = job(tmp_path, "questions", settings=settings, retry_failed=True)["questions"].read_manifest()["counts"]
    assert healed["kept"] == 60
    assert healed["rejects"] == {}


def test_too_few_topics_are_told_with_what_to_set(tmp_path, capsys):
    job(tmp_path, "questions", settings=changed("stages", "questions", "count", 500))
    said = capsys.readouterr().err
    assert re.search(
        r"questions: (\d+) of the 500 asked for: there are \1 topics, and each gets one question; "
        r"raise topic_rounds \(now 1\) or topics_per_type \(now without limit\)",
        said,
    )


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


def test_what_was_edited_is_said_by_each_stage_that_it_touches(tmp_path, capsys):
    pack = to_dict(load_pack("ethical"))
    (tmp_path / "pack.yaml").write_text(yaml.safe_dump(pack))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(changed("criterion", str(tmp_path / "pack.yaml"))))

    def said(*more):
        assert recipe.main([str(tmp_path / "r.yaml"), "-o", str(tmp_path / "run"), *more]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "stale" in line]

    for stage in ("questions", "triples"):
        assert said("--only", stage) == []
    assert said("--only", "questions") == []
    [stale] = said("--only", "questions", "--set", "stages.questions.hints=4")
    assert stale == "  stale: hints: 5 → 4; done again, with every completion that still fits"
    pack["demonstrations"][0]["correction"] += " And be kind."
    (tmp_path / "pack.yaml").write_text(yaml.safe_dump(pack))
    assert said("--only", "questions", "--set", "stages.questions.hints=4") == []
    [stale] = said("--only", "triples", "--set", "stages.triples.english=true")
    assert "english: False → True" in stale
    assert "the criterion pack changed" in stale
    assert "questions" not in stale  # the same ones came out
    assert "sampling" not in stale
    assert status.main([str(tmp_path / "run")]) == 0


def test_a_stage_is_listed_from_its_beginning(tmp_path, monkeypatch, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    shown = []

    def interrupted(*_):
        assert status.main([str(tmp_path / "run")]) == 0
        shown.append(capsys.readouterr().out)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.questions.collect_topics", interrupted)
    assert recipe.main([str(path), "-o", str(tmp_path / "run")]) == 130
    assert re.search(r"test, criterion ethical\s.*\nquestions +running ", shown[0], re.DOTALL)
    assert status.main([str(tmp_path / "run")]) == 1
    assert re.search(r"\nquestions +failed ", capsys.readouterr().out)


def test_a_stage_that_fails_at_once_is_listed_as_failed(tmp_path, monkeypatch, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    arguments = [str(path), "-o", str(tmp_path / "run"), "--only"]
    assert recipe.main([*arguments, "questions"]) == 0

    def broken(config, _):
        raise StageError("no")

    monkeypatch.setattr("pipelines.triples.run", broken)
    assert recipe.main([*arguments, "triples"]) == 1
    assert status.main([str(tmp_path / "run")]) == 1
    assert re.search(r"\nquestions +complete .*\ntriples +failed ", capsys.readouterr().out)


def test_status_tells_of_rejects_by_its_exit_code(tmp_path, log, capsys):
    job(tmp_path, "questions", "triples", settings=changed("models", "teacher", FAILING))
    assert status.main([str(tmp_path / "run")]) == 3
    assert "server_error" in capsys.readouterr().out


def test_the_flag_wins_over_the_recipe():
    settings = changed("models", {"teacher": {"model": "A/t", "style": "chat"}, "upstream": {"model": "A/u"}})
    layers = [Layer("test", settings), Layer("flags", {"output": "x"})]
    assert models_of(resolve(Config, layers).config) == {"teacher": "A/t", "upstream": "A/u"}
    config = resolve(Config, [*layers, Layer("--model", {"model": "B/m"})]).config
    assert models_of(config) == {"teacher": "B/m", "upstream": "B/m"}
    assert config.engine("teacher")["style"] == "chat"


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
        (["{recipe}", "-o", "x", "--set", "models.teacher.stle=chat"], r"models.teacher: stle: .*did you mean 'style'"),
        (["{recipe}", "-o", "x", "--set", "models.aligner.agrs={}"], r"models.aligner: agrs: .*did you mean 'args'"),
        (["{recipe}", "-o", "x", "--set", "models.upstream.concurrency=few"], r"concurrency: .*'few'.*models.upstream"),
        (
            ["{recipe}", "-o", "x", "--set", "stages.train_aligner.lerning_rate=1"],
            r"stages.train_aligner: lerning_rate: unknown setting \(did you mean 'learning_rate'\?\)",
        ),
        (["{recipe}", "-o", "x", "--set", "stages.train_inspector.epochs=0"], r"epochs = 0.*: must be above 0"),
        (["{recipe}", "-o", "x", "--set", "heldout=absent.jsonl"], "heldout: absent.jsonl: no such file"),
        (
            ["{recipe}", "-o", "x", "--set", "stages.curate.heldout=[a.csv]"],
            "stages.curate.heldout: a.csv: no such file",
        ),
        (
            ["{recipe}", "-o", "x", "--set", "stages.evaluate.two_way=[a.csv]"],
            "stages.evaluate.two_way: a.csv: no such",
        ),
        (
            ["{recipe}", "-o", "x", "--set", "stages.evaluate.inspector=[judge=./judge]"],
            "stages.evaluate.inspector: ./judge: no such model folder",
        ),
        (["{recipe}", "-o", "x", "--set", "stages.evaluate.pair_ranker=a"], "stages.evaluate.pair_ranker: a: no such"),
        (
            ["{recipe}", "-o", "x", "--set", "stages.train_aligner.base=./no"],
            "stages.train_aligner.base: ./no: no such model folder",
        ),
        (
            ["{recipe}", "-o", "x", "--set", "models.upstream={engine: vllm, model: /no}"],
            "models.upstream: /no: no such model folder",
        ),
        (["{recipe}", "-o", "memory://x"], "output = 'memory://x': the trainers write to a local disk"),
    ],
)
def test_wrong_use_is_told_before_any_work(tmp_path, monkeypatch, capsys, arguments, message):

    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(SETTINGS))
    assert recipe.main([argument.replace("{recipe}", "r.yaml") for argument in arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob("x/questions*"))
