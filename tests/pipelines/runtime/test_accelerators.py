"""The job graphs that Dataflow would be sent: accelerators go to the steps with texts, and no fusion is broken."""

import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pytest
import yaml
from apache_beam.options.pipeline_options import StandardOptions, WorkerOptions
from one_step import do

from pipelines import curate, ingest
from pipelines.commands import align
from pipelines.runtime.beam import run_pipeline
from schemas.command_line import DONE, WRONG_USE
from schemas.errors import UsageError
from schemas.tables import RESPONSES
from transforms.tables.chunks import MapBatches
from transforms.tables.read import ReadTable
from transforms.tables.table import read_table
from transforms.tables.write import SplitMarks, WriteTables, write_tables

ACCELERATOR = "type:nvidia-l4;count:1;install-nvidia-driver"
IMAGE = "europe-docker.pkg.dev/project/alignbeam/worker:1"
DATAFLOW = (
    "--runner=DataflowRunner",
    "--project=a-project",
    "--region=europe-west4",
    "--temp_location=gs://a-bucket/temp",
    "--staging_location=gs://a-bucket/staging",
    "--dry_run=True",
    "--experiments=no_use_multiple_sdk_containers",
    f"--sdk_container_image={IMAGE}",
    "--resource_hints=min_ram=16GB",
    f"--resource_hints=accelerator={ACCELERATOR}",
)
ALIGNER = {"engine": "scripted", "args": {"function": "tests.scripted_models:aligner"}}
SQUAD = {
    "rounds": 2,
    "members": [
        {"criterion": name, "inspector": f"scripted:tests.scripted_models:{name}", "aligner": "x", "engine": ALIGNER}
        for name in ("lengths", "vowels")
    ],
}


@pytest.fixture
def submitted(monkeypatch):
    """Graphs and options that Beam's own Dataflow runner made. Only its client is replaced: the real one is part of
    apache-beam[gcp], and would send them."""
    jobs = []
    client = SimpleNamespace(
        get_container_image_from_options=lambda options: options.view_as(WorkerOptions).sdk_container_image,
        Job=lambda options, graph: jobs.append((graph.components, options)),
    )
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", client)
    return jobs


@pytest.fixture
def corpus(tmp_path):
    rows = [{"id": str(n), "question": f"q{n}?", "response": f"r{n}"} for n in range(6)]
    made = str(tmp_path / "corpus")
    write_tables(made, {"responses": pa.Table.from_pylist(rows, RESPONSES)}, {"stage": "made"}, 2)
    return made


@pytest.fixture
def squad(tmp_path):
    path = tmp_path / "squad.yaml"
    path.write_text(yaml.safe_dump(SQUAD))
    return str(path)


def hints_of(graph):
    """The hints of every step that runs in a worker's Python, by the step's name."""
    return {
        step.unique_name: dict(graph.environments[step.environment_id].resource_hints)
        for step in graph.transforms.values()
        if step.environment_id and not step.subtransforms
    }


def accelerated(graph):
    return {name for name, hints in hints_of(graph).items() if hints.get("beam:resources:accelerator:v1")}


def broken_fusions(graph):
    """Pairs of steps of different environments, one of which takes the other's output without a shuffle."""
    steps = [step for step in graph.transforms.values() if step.environment_id and not step.subtransforms]
    maker = {values: step for step in steps for values in step.outputs.values()}
    neighbours = [(maker[values], step) for step in steps for values in step.inputs.values() if values in maker]
    return {
        (before.unique_name, after.unique_name)
        for before, after in neighbours
        if before.environment_id != after.environment_id
    }


def test_what_runs_models_has_accelerators_from_reading_to_writing_and_nothing_else_has(
    tmp_path, corpus, squad, submitted
):
    flags = [corpus, "--squad", squad, "-o", str(tmp_path / "run")]
    assert align.main([*flags, "--", *DATAFLOW]) == DONE
    ((graph, options),) = submitted
    on_gpu = accelerated(graph)
    aligning = {name for name in hints_of(graph) if name.split("/")[0] in ("Answer", "SetAside", "Align")}
    assert {name.split("/")[1] for name in aligning if name.startswith("Align")} >= {"ScoreResponse", "Rewrite2"}
    spread = {name for name in on_gpu if name.startswith("Read/Spread/")}
    assert on_gpu == aligning | spread | {"Read/Read", "Write/WriteParts"}
    assert {name.rpartition("/")[2] for name in spread} == {
        "FlatMap(restore_metadata_default_window)",
        "RemoveRandomKeys",
    }
    assert {"Read/RowGroups", "Write/JoinShard", "Write/WriteManifest"} <= hints_of(graph).keys() - on_gpu
    assert broken_fusions(graph) == set()
    for environment in graph.environments.values():
        assert environment.payload.decode().endswith(IMAGE)
        assert environment.resource_hints["beam:resources:min_ram_bytes:v1"] == b"16000000000"
    assert {hints.get("beam:resources:accelerator:v1") for hints in hints_of(graph).values()} == {
        None,
        ACCELERATOR.encode(),
    }
    assert options.view_as(StandardOptions).resource_hints == ["min_ram=16GB"]


def test_a_hint_on_one_step_alone_would_break_fusion(corpus, submitted):
    """The check above can fail."""

    def build(root):
        rows = root | "Read" >> ReadTable(read_table(corpus))
        rows = rows | "Model" >> MapBatches(lambda batch: batch).with_resource_hints(accelerator=ACCELERATOR)
        rows | "Write" >> WriteTables(f"{corpus}-out", {"responses": RESPONSES}, SplitMarks("responses"), 3, {})

    run_pipeline(build, DATAFLOW, models=False)
    ((graph, _),) = submitted
    assert broken_fusions(graph) == {("Read/Read", "Model/Map(_apply)"), ("Model/Map(_apply)", "Write/WriteParts")}


def test_stages_without_a_model_have_no_accelerator(tmp_path, corpus, submitted):
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({"question": "q?", "response": "r"}))
    with pytest.raises(UsageError, match=r"manifest\.json: no such file"):  # a dry run leaves nothing behind
        ingest.import_into(ingest.Config(corpus=str(source)), str(tmp_path / "imported"), DATAFLOW)
    with pytest.raises(UsageError, match=r"manifest\.json: no such file"):
        do(curate.KIND, curate.Config(table=corpus), tmp_path / "run", beam=DATAFLOW)
    assert len(submitted) == 2
    for graph, options in submitted:
        assert accelerated(graph) == set()
        assert options.view_as(StandardOptions).resource_hints == ["min_ram=16GB"]


def test_the_local_runner_aligns_the_same_with_the_hint(tmp_path, corpus, squad):
    tables = []
    for number, hint in enumerate([[], [f"--resource_hints=accelerator={ACCELERATOR}"]]):
        output = tmp_path / str(number)
        assert align.main([corpus, "--squad", squad, "-o", str(output), "--", *hint]) == DONE
        (made,) = (output / "align").glob("*/")
        tables.append(read_table(str(made), "aligned").to_arrow())
    assert tables[0].num_rows == 6
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("hint", ["accelerator", "min_ram=much", "gpu=1"])
def test_a_hint_that_beam_refuses_is_named_before_work(tmp_path, corpus, squad, capsys, hint):
    flags = [corpus, "--squad", squad, "-o", str(tmp_path / "run"), "--", f"--resource_hint={hint}"]
    assert align.main(flags) == WRONG_USE
    said = capsys.readouterr().err
    assert hint.partition("=")[0] in said
    assert "Traceback" not in said
