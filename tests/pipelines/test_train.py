"""Training as a step: what a trainer reads and is told, what is left of it, and when its model is stale."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models
import yaml
from one_step import do

from pipelines import shards, train
from pipelines.runtime import entrypoint, trained, trainers
from pipelines.runtime.edges import check_edges
from pipelines.runtime.runs import Record, open_run
from pipelines.runtime.standings import survey
from pipelines.runtime.step import ModelSource, Place, PlannedStep, TableSource
from pipelines.runtime.steps import check_outside, do_steps
from schemas.errors import StageError, UsageError
from schemas.fields import setting
from schemas.tables import SPLIT_COLUMNS, TRIPLES, with_texts
from training import aligner, inspector
from transforms.tables.table import read_table

SPLITS = [("train", "train")] * 6 + [("train", "validation")] * 2 + [("validation", None), ("test", None)]


@pytest.fixture
def curated(tmp_path) -> str:
    """A curated table of ten triples, as a file."""
    rows = [
        {"id": f"t{n}", "question": "how do i learn", "response": "steal answers", "correction": f"ask for help {n}"}
        | {"identity": False, "split": split, "inspector_split": inner}
        for n, (split, inner) in enumerate(SPLITS)
    ]
    path = tmp_path / "curated.parquet"
    pq.write_table(pa.Table.from_pylist(rows, with_texts(TRIPLES, SPLIT_COLUMNS)), path)
    return str(path)


@pytest.fixture
def base(tmp_path) -> str:
    return str(tiny_models.encoder(tmp_path / "encoder"))


@dataclass
class Trainer:
    """Stands for the trainers' programs: notes what they are told, and copies the base as the trained model."""

    told: list
    fails: bool = False

    def __call__(self, method, arguments, data="", launch="") -> None:
        settings = yaml.safe_load(Path(arguments[1]).read_text())
        output = Path(settings["output"])
        self.told.append((method, data, launch, output.is_dir()))
        if self.fails:
            raise StageError("the trainer ended")
        if not output.is_dir():
            shutil.copytree(settings["base"], output)
            (output / "metrics.json").write_text('{"rows": {"train": 6, "validation": 2}}')
            (output / "run.json").write_text(json.dumps({"data": str(sorted(Path(data).glob("*/*")))}))


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    stand_in = Trainer([])
    monkeypatch.setattr(trainers, "run_trainer", stand_in)
    return stand_in


def planned(name, kind, config, data, base) -> PlannedStep:
    """A step whose base is a folder, or another step where it has that one's name."""
    source = ModelSource({}, base) if "/" not in base else ModelSource({"model": base})
    return PlannedStep(name, kind, config, {"data": TableSource(path=data), "base": source})


def test_a_trainer_gets_its_shards_and_its_model_is_the_steps_directory(tmp_path, curated, base, capfd):
    settings = {"epochs": 1, "max_tokens": 48, "batch_size": 4, "learning_rate": 1e-3}
    config = inspector.Config(data=curated, output="", base=base, **settings)
    stage = do(train.INSPECTOR, config, tmp_path / "run")
    folder = Path(stage.directory)
    assert "rows    train 12, validation 4" in capfd.readouterr().out
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "misaligned", "1": "aligned"}
    manifest = stage.read_manifest()
    assert manifest["counts"] == {"in": 16, "kept": 12, "drops": {}, "rejects": {}}
    assert manifest["tables"] == {}
    assert manifest["seconds"] > 0
    digest = json.loads((folder / "run.json").read_text())["data"]["manifest_digest"]
    assert len(digest) == 12
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.yaml"]
    told = yaml.safe_load((folder.parent / f"{folder.name}.yaml").read_text())
    assert (told["epochs"], told["base"], told["output"]) == (1.0, base, str(folder))
    assert do(train.INSPECTOR, config, tmp_path / "run") == stage
    assert "trained already" not in capfd.readouterr().out  # nobody asks the trainer again


def test_a_crash_leaves_the_shards_and_they_go_when_the_model_is_whole(tmp_path, curated, base, trainer):
    config = aligner.Config(data=curated, output="", base=base)
    trainer.fails = True
    with pytest.raises(StageError, match="the trainer ended"):
        do(train.ALIGNER, config, tmp_path / "run")
    [(method, data, launch, _)] = trainer.told
    assert (method, launch) == ("aligner", "")
    assert read_table(data, "train").to_arrow().column("id").to_pylist() == [f"t{n}" for n in range(8)]
    written = (Path(data) / "train" / "shard-00000.parquet").stat().st_mtime_ns
    [failed] = open_run(str(tmp_path / "run")).stages
    assert failed.status == "failed"

    def run_again(*told, **more) -> None:
        assert (Path(data) / "train" / "shard-00000.parquet").stat().st_mtime_ns == written
        trainer.fails = False
        trainer(*told, **more)

    trainers.run_trainer = run_again
    stage = do(train.ALIGNER, config, tmp_path / "run", launch="torchrun")
    assert stage.read_manifest()["counts"]["kept"] == 6
    assert trainer.told[1][1:3] == (data, "torchrun")
    assert not Path(data).exists()


def test_shards_of_a_step_are_read_where_they_are(tmp_path, curated, base, trainer):
    run = str(tmp_path / "run")
    config = aligner.Config(data="shards", output="", base=base)
    steps = [
        PlannedStep(
            "shards", shards.KIND, shards.Config(data=curated, trainer="aligner"), {"data": TableSource(path=curated)}
        ),
        PlannedStep(
            "model", train.ALIGNER, config, {"data": TableSource("shards"), "base": ModelSource({"model": base})}
        ),
    ]
    made = do_steps(steps, Record(run), Place(run))
    assert [told[1] for told in trainer.told] == [made["shards"].directory]
    assert (Path(made["shards"].directory) / "train").is_dir()
    assert not Path(f"{made['model'].directory}.data").exists()


@pytest.mark.parametrize(("kind", "method"), [(train.INSPECTOR, "inspector"), (train.ALIGNER, "aligner")])
def test_the_shards_of_a_trainer_fit_it_by_step_and_by_folder(tmp_path, curated, base, trainer, kind, method):
    made = do(shards.KIND, shards.Config(data=curated, trainer=method), tmp_path / "run").directory
    flags = ["--base", base, "-o", str(tmp_path / "run")]
    assert entrypoint.main(kind, train.__doc__, ["--data", made, *flags]) == 0
    assert [told[:2] for told in trainer.told] == [(method, made)]
    writing = PlannedStep("shards", shards.KIND, shards.Config(data=curated, trainer=method))
    config = kind.config(data="shards", output="", base=base)
    training = PlannedStep("model", kind, config, {"data": TableSource("shards"), "base": ModelSource({"model": base})})
    check_edges([replace(writing, sources={"data": TableSource(path=curated)}), training], Place(str(tmp_path)))


def test_other_validation_rows_make_a_model_of_shards_stale(tmp_path, curated, base, trainer):
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(pq.read_table(curated).take([0, 1, 2, 3, 4, 5, 6, 8, 9]), fewer)  # 6 and 7 are validation rows
    models = []
    for data in (curated, str(fewer)):
        of_inspector = do(shards.KIND, shards.Config(data=data, trainer="inspector"), tmp_path / "run")
        config = inspector.Config(data=of_inspector.directory, output="", base=base)
        models.append(do(train.INSPECTOR, config, tmp_path / "run").directory)
    trains = [read_table(told[1], "train").digest for told in trainer.told]
    assert len(trains) == 2
    assert trains[0] == trains[1]
    assert models[0] != models[1]


def test_the_secret_of_a_data_url_reaches_the_trainer_and_no_file(tmp_path, trainer):
    url = "http://me:SECRET@host/data?sig=SECRET"
    trainer.fails = True
    with pytest.raises(StageError):
        trainers.train("aligner", aligner.Config(data=url, output=str(tmp_path / "model"), base="b"))
    assert [told[1] for told in trainer.told] == [url]
    written = (tmp_path / "model.yaml").read_text()
    assert "data: http://***@host/data?sig=***\n" in written
    assert "SECRET" not in written


def test_command_line(tmp_path, curated, base, trainer, capsys):
    arguments = ["--data", curated, "--base", base, "--seed", "7", "-o", str(tmp_path / "run"), "--launch", "torchrun"]
    assert entrypoint.main(train.INSPECTOR, train.__doc__, arguments) == 0
    [model] = (tmp_path / "run" / "train_inspector").glob("*.yaml")
    told = yaml.safe_load(model.read_text())
    assert (told["seed"], told["output"]) == (7, str(model.with_suffix("")))
    assert trainer.told[0][2] == "torchrun"
    assert str(model.with_suffix("")) in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class OtherDefault(inspector.Config):
    """The inspector's settings after somebody chose another default."""

    learning_rate: float = setting("peak learning rate", 3e-5)


@dataclass(frozen=True, kw_only=True)
class OneMore(inspector.Config):
    """The inspector's settings after somebody added one."""

    smoothing: float = setting("of labels", 0.0, was=0.0)


def test_another_default_makes_a_model_stale_and_one_more_setting_does_not(tmp_path, curated, base, trainer):
    run = str(tmp_path / "run")

    def standing(config_class, **changes):
        config = config_class(data=curated, output="", base=base, **changes)
        steps = [planned("model", train.kind("inspector", config_class), config, curated, base)]
        [found] = survey(steps, Record(run), Place(run))
        return found.status, found.because

    config = inspector.Config(data=curated, output="", base=base)
    do_steps([planned("model", train.INSPECTOR, config, curated, base)], Record(run), Place(run))
    assert standing(inspector.Config) == ("done", ())
    assert standing(OtherDefault) == ("stale", ("learning_rate: 2e-05 → 3e-05",))
    assert standing(OneMore) == ("done", ())
    assert standing(OneMore, smoothing=0.1) == ("stale", ("smoothing: None → 0.1",))
    assert standing(inspector.Config, report_to="wandb", seed=42) == ("done", ())


def test_a_model_is_trained_from_the_one_that_a_step_before_trained(tmp_path, curated, base, trainer):
    run = str(tmp_path / "run")
    first = inspector.Config(data=curated, output="", base=base)
    second = inspector.Config(data=curated, output="", base="first", seed=1)
    steps = [
        planned("second", train.INSPECTOR, second, curated, "first"),
        planned("first", train.INSPECTOR, first, curated, base),
    ]
    made = do_steps(steps, Record(run), Place(run))
    told = yaml.safe_load(Path(f"{made['second'].directory}.yaml").read_text())
    assert told["base"] == made["first"].directory


def test_redo_forgets_what_a_training_has_begun(tmp_path, curated, base, trainer):
    run = str(tmp_path / "run")
    config = inspector.Config(data=curated, output="", base=base)
    steps = [planned("model", train.INSPECTOR, config, curated, base)]
    [stage] = do_steps(steps, Record(run), Place(run)).values()
    (Path(f"{stage.directory}.training") / "checkpoints").mkdir(parents=True)
    do_steps(steps, Record(run), Place(run), redo=["model"])
    assert [told[3] for told in trainer.told] == [False, False]
    assert not Path(f"{stage.directory}.training").exists()


@pytest.fixture
def store():
    """An empty store."""
    fs = fsspec.filesystem("memory")
    fs.rm("/", recursive=True)
    yield "memory://run"
    fs.rm("/", recursive=True)


def test_on_a_store_a_model_is_trained_under_work_and_put_there(tmp_path, curated, base, trainer, store, monkeypatch):
    place = Place(store, work=str(tmp_path / "work"))
    config = inspector.Config(data=curated, output="", base=base)
    steps = [planned("model", train.INSPECTOR, config, curated, base)]
    with monkeypatch.context() as patch:
        patch.setattr(train, "put_on_store", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            do_steps(steps, Record(store), place)
    [standing] = survey(steps, Record(store), place)
    assert (standing.status, standing.step.stage.is_done()) == ("failed", False)
    fs = fsspec.filesystem("memory")
    fs.pipe(f"{standing.step.stage.directory}/left", b"by half an upload")
    [stage] = do_steps(steps, Record(store), place).values()
    assert [told[3] for told in trainer.told] == [False, True]  # the second time it is there already
    assert trainer.told[0][1] == f"{stage.directory}.data"
    files = {path.rpartition("/")[2] for path in fs.find(stage.directory)}
    assert files == {path.name for path in Path(base).iterdir()} | {"metrics.json", "run.json", "manifest.json"}
    assert not fs.exists(f"{stage.directory}.data")
    assert (tmp_path / "work" / "train_inspector" / f"{stage.digest}.yaml").is_file()


def test_a_model_on_a_store_is_fetched_once(tmp_path, curated, base, trainer, store):
    place = Place(store, work=str(tmp_path / "work"))
    first = inspector.Config(data=curated, output="", base=base)
    steps = [planned("first", train.INSPECTOR, first, curated, base)]
    [stage] = do_steps(steps, Record(store), place).values()
    elsewhere = replace(place, work=str(tmp_path / "elsewhere"))
    second = planned("second", train.INSPECTOR, replace(first, base="first", seed=1), curated, "first")
    made = do_steps([*steps, second], Record(store), elsewhere)
    folder = tmp_path / "elsewhere" / "train_inspector" / stage.digest
    told = yaml.safe_load((folder.parent / f"{made['second'].digest}.yaml").read_text())
    assert told["base"] == str(folder)
    assert (folder / "model.safetensors").read_bytes() == (Path(base) / "model.safetensors").read_bytes()
    fsspec.filesystem("memory").rm(f"{stage.directory}/model.safetensors")
    assert trained.fetch_trained(stage, elsewhere) == str(folder)
    assert [told[0] for told in trainer.told] == ["inspector", "inspector"]


def test_a_run_below_home_is_trained_there(tmp_path, curated, base, trainer, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = inspector.Config(data=curated, output="", base=base)
    stage = do_steps([planned("model", train.INSPECTOR, config, curated, base)], Record("~/run"), Place("~/run"))[
        "model"
    ]
    folder = tmp_path / "run" / "train_inspector" / stage.digest
    assert (folder / "config.json").is_file()
    assert yaml.safe_load(Path(f"{folder}.yaml").read_text())["output"] == str(folder)


def test_a_file_url_is_a_local_disk(tmp_path, curated, base, trainer):
    config = inspector.Config(data=curated, output="", base=base)
    stage = do(train.INSPECTOR, config, f"file://{tmp_path}/run")
    assert (tmp_path / "run" / "train_inspector" / stage.digest / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (Place("memory://run"), {}, r"output = memory://run: trainers write to a local disk; .* --work DIR"),
        (Place("memory://run", work="memory://work"), {}, r"work = memory://work: is a store"),
        (
            Place("{tmp}/run", launch="torchruns -n 8"),
            {},
            "launch = 'torchruns -n 8': there is no program",
        ),
        (Place("{tmp}/run", launch="torchrun 'x"), {}, r"launch = .*: cannot be split into words"),
        (Place("{tmp}/run"), {"base": "{tmp}"}, r"model: base: .*: not a model folder"),
        (Place("{tmp}/run"), {"report_to": "wandb"}, r"model: report_to = wandb: the package wandb is not installed"),
    ],
)
def test_wrong_use_is_told_before_any_work(tmp_path, curated, base, monkeypatch, place, changes, message):
    monkeypatch.setattr("training.reporting.find_spec", lambda name: None)
    place = replace(place, output=place.output.format(tmp=tmp_path))
    changes = {name: value.format(tmp=tmp_path) for name, value in changes.items()}
    config = inspector.Config(**{"data": curated, "output": "", "base": base} | changes)
    step = planned("model", train.INSPECTOR, config, curated, config.base)
    with pytest.raises(UsageError, match=message):
        check_outside([step], place)


def test_what_trained_models_may_be_used_for():
    config = inspector.Config(data="d", output="")
    assert train.INSPECTOR.gives(config, {}).roles == ("inspector", "encoder")
    assert train.ALIGNER.gives(config, {}).roles == ("generator", "base")
