"""Tables made of tables: what a row keeps, which rows are chosen, several tables as one, and what is refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st
from one_step import do

from pipelines import derive
from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import Prospect
from pipelines.runtime.stage import Stage
from schemas.command_line import DONE
from schemas.errors import StageError, UsageError
from schemas.settings import Layer, resolve
from schemas.tables import QUESTIONS, SPLIT_COLUMNS, TRIPLES, with_texts

CURATED = with_texts(TRIPLES, SPLIT_COLUMNS)
SPLITS = ("train", "train", "train", "validation", "test")
Q_A_A = {"question": "question", "response": "response", "correction": "response"}


def triple(number: int, prefix: str = "t") -> dict:
    return {
        "id": f"{prefix}{number}",
        "question_id": f"q{number}",
        "question": f"Q{number}?",
        "topic": "cats",
        "criterion": "ethical",
        "response": f"y{number}",
        "critique": "It mocks.",
        "correction": f"z{number}",
        "identity": False,
        "split": SPLITS[number % 5],
        "inspector_split": "train" if number % 5 == 0 else None,
        "cluster": f"c{number}",
    }


def write(path, rows: list[dict], schema: pa.Schema = CURATED, group: int = 3) -> str:
    path.mkdir()
    for index in range(2):
        part = pa.Table.from_pylist(rows[index::2], schema)
        pq.write_table(part, path / f"{index}.parquet", row_group_size=group)
    return str(path)


def config(tables, **values) -> derive.Config:
    return resolve(derive.Config, [Layer("test", {"tables": tables, **values})]).config


def derived(tmp_path, tables, **values) -> Stage:
    return do(derive.KIND, config(tables, **values), tmp_path / "run")


def rows_of(stage: Stage) -> list[dict]:
    return sorted(stage.table().to_arrow().to_pylist(), key=lambda row: row["id"])


def ids(stage: Stage) -> set[str]:
    return set(stage.table().to_arrow().column("id").to_pylist())


def test_texts_get_their_names_and_ids_splits_and_lineage_stay(tmp_path):
    source = write(tmp_path / "in", [triple(n) for n in range(5)])
    stage = derived(tmp_path, source, columns=Q_A_A, where={"topic": ["cats"], "split": ["train", "test"]})
    assert list(stage.read_manifest()["tables"]) == ["triples"]
    assert stage.read_manifest()["counts"] == {"in": 5, "kept": 4, "drops": {}, "rejects": {}}
    rows = rows_of(stage)
    assert [row["id"] for row in rows] == ["t0", "t1", "t2", "t4"]
    assert rows[3] == {
        "id": "t4",
        "question": "Q4?",
        "response": "y4",
        "correction": "y4",
        "question_type": None,
        "topic": "cats",
        "criterion": "ethical",
        "question_id": "q4",
        "identity": True,  # because it says one text twice
        "split": "test",
        "inspector_split": None,
        "cluster": "c4",
    }
    assert stage.table().schema == derive.KIND.gives(config(source, columns=Q_A_A), {"tables": CURATED})["triples"]


def test_without_columns_all_stay_and_the_table_is_called_by_its_columns(tmp_path):
    source = write(tmp_path / "in", [triple(n) for n in range(4)])
    stage = derived(tmp_path, [source])
    assert stage.table().schema == CURATED
    assert rows_of(stage) == [triple(n) | {"question_type": None} for n in range(4)]
    questions = derived(tmp_path, [source], columns={"question": "question"})
    assert list(questions.read_manifest()["tables"]) == ["questions"]
    pairs = {"question": "question", "rejected": "response", "chosen": "correction"}
    assert list(derive.KIND.gives(config(source, columns=pairs), {"tables": CURATED})) == ["questions"]
    answers = {"question": "question", "response": "correction"}
    row = rows_of(derived(tmp_path, [source], columns=answers, where={"question_id": ["q2"]}))[0]
    assert (row["response"], row["identity"]) == ("z2", False)


def test_shares_nest_on_disk_and_every_split_keeps_a_row(tmp_path):
    source = write(tmp_path / "in", [triple(n) for n in range(100)], group=7)
    stages = [derived(tmp_path, [source], sample=share) for share in (0.02, 0.1, 0.5)]
    assert [len(ids(stage)) for stage in stages] == [3, 10, 50]
    assert ids(stages[0]) < ids(stages[1]) < ids(stages[2])
    assert {row["split"] for row in rows_of(stages[0])} == {"train", "validation", "test"}
    assert ids(derived(tmp_path, [source], limit=10)) == ids(stages[1])
    assert ids(derived(tmp_path, [source], sample=0.5, limit=10)) == ids(stages[1])
    assert ids(derived(tmp_path, [source], sample=0.1, seed=1)) != ids(stages[1])
    again = write(tmp_path / "again", [triple(n) for n in reversed(range(100))], group=50)
    assert ids(derived(tmp_path, [again], sample=0.1)) == ids(stages[1])


def test_several_tables_become_one_with_their_labels_and_without_splits(tmp_path):
    first = write(tmp_path / "a", [triple(n, "a") for n in range(3)])
    schema = pa.schema([*reversed(CURATED), ("source", pa.string())])
    second = write(tmp_path / "b", [triple(n, "b") | {"source": "books"} for n in range(3)], schema)
    stage = derived(tmp_path, {"hh": first, "safe rlhf": second})
    assert stage.table().schema.names == [*TRIPLES.names, "source"]
    assert [(row["id"], row["source"]) for row in rows_of(stage)] == [
        *(("a0", "hh"), ("a1", "hh"), ("a2", "hh")),
        *(("b0", "safe rlhf"), ("b1", "safe rlhf"), ("b2", "safe rlhf")),
    ]
    assert sorted(shard.name for shard in stage.table().shards) == ["hh/0", "hh/1", "safe rlhf/0", "safe rlhf/1"]
    listed = derived(tmp_path, [first, second], limit=4, columns={"question": "question"})
    assert {row["source"] for row in rows_of(listed)} == {"0", "1"}
    assert len(ids(listed)) == 4
    tables = {"tables.hh": CURATED, "tables.safe rlhf": schema}
    assert derive.KIND.gives(config({"hh": first, "safe rlhf": second}), tables) == {"triples": stage.table().schema}


def test_lineage_that_not_all_tables_have_goes_where_the_texts_are_named(tmp_path):
    first = write(tmp_path / "a", [triple(0, "a")])
    second = write(tmp_path / "b", [{"id": "b0", "question": "Why?", "topic": "cats", "round": 1}], QUESTIONS)
    with pytest.raises(
        UsageError, match="tables.1: its columns differ from those of tables.0: correction, critique, id"
    ):
        derived(tmp_path, [first, second])
    stage = derived(tmp_path, [first, second], columns={"question": "question"})
    assert stage.table().schema.names == ["id", "question", "question_type", "topic", "criterion", "source"]
    assert [row["question"] for row in rows_of(stage)] == ["Q0?", "Why?"]


def test_what_cannot_be_derived_is_refused(tmp_path):
    source = write(tmp_path / "in", [triple(n) for n in range(3)])
    inputs = {"tables": CURATED}
    with pytest.raises(UsageError, match="columns: tables has no column answer; it has id, question_id"):
        derive.KIND.gives(config(source, columns={"question": "question", "response": "answer"}), inputs)
    with pytest.raises(UsageError, match="where.splits: tables has no such column; it has id, question_id"):
        derive.KIND.gives(config(source, where={"splits": ["test"]}), inputs)
    assert derive.KIND.gives(config([source, source]), {"tables.0": CURATED}) == {}
    assert derive.KIND.gives(config(source), {}) == {}
    with pytest.raises(StageError, match="derive: not one of 3 rows is left"):
        derived(tmp_path, source, where={"topic": ["dogs"]}, sample=0.5)
    for values, message in (
        ({"sample": 0.0}, "sample: 0.0 is not a share above 0 and up to 1"),
        ({"sample": 1.5}, "sample: 1.5 is not a share"),
        ({"limit": 0}, "limit: must be at least 1, not 0"),
        ({"columns": {"split": "topic"}}, "columns.split: stays as it is"),
        ({"columns": {"topic": "topic"}}, "columns.topic: stays as it is"),
        ({"where": {"split": []}}, "where.split: no row has none of no values"),
        ({"tables": []}, "tables: name at least one"),
        ({"tables": {"../a": source}}, "tables.../a: files are called so too"),
        ({"tables": {"é" * 61: source}}, "files are called so too; .* at most 60$"),
    ):
        with pytest.raises(UsageError, match=message):
            config(**({"tables": source} | values))
    with pytest.raises(UsageError, match=r"derive: tables\.answer: no answer is read here; name the table alone"):
        derived(tmp_path, {"table": source, "answer": "response"})


def test_the_rows_to_come_are_estimated():
    prospect = Prospect(rows={"tables.0": 30, "tables.1": 70})
    assert derive.KIND.estimate(config(["a", "b"]), prospect).rows == 100
    assert derive.KIND.estimate(config(["a", "b"], sample=0.2), prospect).rows == 20
    assert derive.KIND.estimate(config(["a", "b"], sample=0.2, limit=7), prospect).rows == 7
    assert derive.KIND.estimate(config(["a"], limit=7), Prospect(rows={"tables.0": None})).rows == 7


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(0, 8))
def test_cuts_never_matter(rows, cut):
    batch = pa.RecordBatch.from_pylist([triple(n) for n in range(rows)], CURATED)
    own = config({"a": "x", "b": "y"}, columns=Q_A_A, where={"split": ["train"]})
    table = derive.derived(own, {"tables.a": CURATED, "tables.b": CURATED})

    def function(part: pa.RecordBatch) -> pa.RecordBatch:
        return derive.derive_rows(part, own, table.names["tables.a"], table.schema, "a", None)

    assert_cuts_never_matter(function, batch, cut)


def test_command_line(tmp_path):
    source = write(tmp_path / "in", [triple(n) for n in range(5)])
    arguments = ["--tables", source, "-o", str(tmp_path / "run"), "--set", "where={split: [test]}"]
    assert entrypoint.main(derive.KIND, derive.__doc__, arguments) == DONE
    [made] = (tmp_path / "run" / "derive").iterdir()
    assert pq.read_table(made / "triples").column("id").to_pylist() == ["t4"]
