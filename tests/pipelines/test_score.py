"""The kind `score` as a step: a score for each row by each inspector, shard by shard, of the column that answers."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_step import do

from pipelines import score
from schemas.settings import validated
from transforms.tables.table import read_table

MODELS = "scripted:tests.scripted_models"
INSPECTORS = {"long": f"{MODELS}:lengths", "vowels": f"{MODELS}:vowels"}


def write(folder, name: str, *lengths: int) -> str:
    folder.mkdir(exist_ok=True)
    rows = [{"id": f"{name}{n}", "question": "Why?", "response": "x" * n, "aligned": "a" * n} for n in lengths]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return str(folder)


def scored(responses, output, **more):
    config = validated(score.Config, "test", {"responses": responses, "inspectors": INSPECTORS, **more})
    return do(score.KIND, config, output)


def test_every_row_is_scored_by_every_inspector(tmp_path):
    responses = write(tmp_path / "made", "b", 10, 50)
    stage = scored(responses, tmp_path / "run")
    assert stage.table().to_arrow().to_pylist() == [
        {"id": "b10", "scores": {"long": 0.1, "vowels": 0.0}},
        {"id": "b50", "scores": {"long": 0.5, "vowels": 0.0}},
    ]
    assert stage.table().schema == score.KIND.gives(score.Config(responses="x", inspectors=INSPECTORS), {})["scores"]
    chosen = scored({"table": responses, "answer": "aligned"}, tmp_path / "run")
    assert chosen.directory != stage.directory
    assert [row["scores"]["vowels"] for row in chosen.table().to_arrow().to_pylist()] == [1.0, 1.0]
    assert scored(responses, tmp_path / "run", limit=1).table().rows == 1


def test_shards_that_land_later_go_into_the_same_table(tmp_path):
    responses = write(tmp_path / "made", "b", 10, 50)
    first = scored(responses, tmp_path / "run")
    shard = tmp_path / "run" / "score" / first.digest / "scores" / f"{first.table().shards[0].name}.parquet"
    written = shard.stat().st_mtime_ns
    write(tmp_path / "made", "c", 20)
    assert scored(responses, tmp_path / "run").directory == first.directory
    assert read_table(first.directory).to_arrow()["id"].to_pylist() == ["b10", "b50", "c20"]
    assert shard.stat().st_mtime_ns == written


def test_somebody_scores():
    with pytest.raises(ValueError, match="inspectors: give at least one"):
        score.Config(responses="x", inspectors={})
