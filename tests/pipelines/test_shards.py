"""Training shards as a step: the rows of each split, what is done again, and what is refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_step import do

from pipelines import shards
from pipelines.runtime import entrypoint
from schemas.command_line import DONE, WRONG_USE
from schemas.errors import StageError, UsageError
from schemas.tables import ALIGNER_ROWS, INSPECTOR_ROWS, SPLIT_COLUMNS, TRIPLES, with_texts
from transforms.tables.table import read_table

SPLITS = [("train", "train"), ("train", "test"), ("train", None), ("validation", None), ("test", None), (None, None)]


def write(path, splits=SPLITS, schema=None) -> str:
    rows = [
        {"id": f"t{n}", "question": f"Q{n}", "response": f"y{n}", "correction": f"z{n}", "identity": split == "test"}
        | {"split": split, "inspector_split": inner}
        for n, (split, inner) in enumerate(splits)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema or with_texts(TRIPLES, SPLIT_COLUMNS)), path)
    return str(path)


def ids(stage, split: str) -> list[str]:
    return read_table(stage.directory, split).to_arrow().column("id").to_pylist()


def test_each_trainer_gets_the_rows_of_its_splits(tmp_path):
    data = write(tmp_path / "curated.parquet")
    aligner = do(shards.KIND, shards.Config(data=data, trainer="aligner", rows_per_shard=2), tmp_path / "run")
    assert [ids(aligner, split) for split in ("train", "validation", "test")] == [["t0", "t1", "t2"], ["t3"], ["t4"]]
    assert [shard.rows for shard in aligner.table("train").shards] == [1, 2]
    assert aligner.table("train").schema == ALIGNER_ROWS
    assert aligner.read_manifest()["counts"] == {"in": 5, "kept": 5, "drops": {}, "rejects": {}}
    inspector = do(shards.KIND, shards.Config(data=data, trainer="inspector"), tmp_path / "run")
    assert [ids(inspector, split) for split in ("train", "validation", "test")] == [
        ["t0:response", "t0:correction"],
        [],
        ["t1:response", "t1:correction"],
    ]
    assert shards.KIND.gives(shards.Config(data=data, trainer="inspector"), {}) == dict.fromkeys(
        ("train", "validation", "test"), INSPECTOR_ROWS
    )
    assert aligner.directory != inspector.directory


def test_shards_that_are_there_stay(tmp_path):
    config = shards.Config(data=write(tmp_path / "curated.parquet"), trainer="aligner", rows_per_shard=1)
    stage = do(shards.KIND, config, tmp_path / "run")
    folder = tmp_path / "run" / "shards" / stage.digest
    (folder / "manifest.json").unlink()  # as if it had been interrupted
    (folder / "entries" / "shard-00001.json").unlink()
    first = (folder / "train" / "shard-00000.parquet").stat().st_mtime_ns
    second = (folder / "train" / "shard-00001.parquet").stat().st_mtime_ns
    do(shards.KIND, config, tmp_path / "run")
    assert (folder / "train" / "shard-00000.parquet").stat().st_mtime_ns == first
    assert (folder / "train" / "shard-00001.parquet").stat().st_mtime_ns > second
    assert ids(stage, "train") == ["t0", "t1", "t2"]


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    data = write(tmp_path / "curated.parquet")
    with pytest.raises(ValueError, match="trainer: must be aligner or inspector, not 'judge'"):
        shards.Config(data=data, trainer="judge")
    with pytest.raises(ValueError, match="rows_per_shard: must be at least 1, not 0"):
        shards.Config(data=data, trainer="aligner", rows_per_shard=0)
    nothing = shards.Config(data=write(tmp_path / "few.parquet", [("test", None)]), trainer="inspector")
    with pytest.raises(StageError, match="few.parquet: no row has the inspector_split train, .* the inspector"):
        do(shards.KIND, nothing, tmp_path / "run")


def test_command_line(tmp_path, capsys):
    arguments = [write(tmp_path / "curated.parquet"), "-o", str(tmp_path / "run")]
    assert entrypoint.main(shards.KIND, shards.__doc__, [*arguments, "--trainer", "aligner"]) == DONE
    [made] = (tmp_path / "run" / "shards").iterdir()
    assert str(made) in capsys.readouterr().err
    assert entrypoint.main(shards.KIND, shards.__doc__, [*arguments, "--trainer", "judge"]) == WRONG_USE
    capsys.readouterr()
    assert entrypoint.main(shards.KIND, shards.__doc__, ["", *arguments[1:], "--trainer", "aligner"]) == WRONG_USE
    assert capsys.readouterr().err == "error: shards: data: names nothing; a table or model is due here\n"
    with pytest.raises(UsageError, match="shards: data: names nothing"):
        do(shards.KIND, shards.Config(data="", trainer="aligner"), tmp_path / "run")
