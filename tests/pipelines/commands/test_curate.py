"""`alignbeam curate`: files that are imported first, the row that is explained, the exit codes."""

import csv
import gzip
import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from triples_to_curate import BAD, GOOD, write, write_held_out

from pipelines.commands import curate
from pipelines.runtime.runs import RecordedStage, open_run
from schemas.command_line import DONE, FAILED, WRONG_USE
from schemas.errors import UsageError
from schemas.settings import Layer, resolve


@pytest.fixture
def held_out(tmp_path) -> str:
    return write_held_out(tmp_path)


def done(tmp_path, source: str, **settings) -> dict[str, RecordedStage]:
    """Run the command; return the steps that are done then, by name."""
    settings = {"similarity": {"words": 2, "jaccard": 0.7}, "overlap_words": 9} | settings
    values = {"input": source, "output": str(tmp_path / "run"), **settings}
    assert curate.run(resolve(curate.Config, [Layer("test", values)]).config) == DONE
    is_run = (tmp_path / "run" / "run.json").exists()
    stages = open_run(str(tmp_path / "run")).stages if is_run else ()
    return {stage.name: stage for stage in stages if stage.status == "done"}


def test_explain_says_what_was_seen_and_what_became_of_a_row(tmp_path, held_out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    source = write([*GOOD[:30], *BAD.values()], tmp_path / "in")
    settings = {"heldout": (held_out,)}
    assert done(tmp_path, source, explain="bad3", **settings) == {}
    before = capsys.readouterr().out
    assert "leaked_near_duplicate" in before
    assert "held_out.jsonl:1: May I ask about the evaluation?" in before
    assert "once the same command has run" in before
    done(tmp_path, source, **settings)
    done(tmp_path, source, explain="zz", **settings)
    assert f"in the table drops: drop_reason exact_duplicate, duplicate_of {GOOD[5]['id']}" in capsys.readouterr().out
    done(tmp_path, source, explain=GOOD[7]["id"], **settings)
    assert "in the table triples: split " in capsys.readouterr().out
    with pytest.raises(UsageError, match="--explain nobody: .* has no row of this id"):
        done(tmp_path, source, explain="nobody")


def test_a_table_is_read_as_it_is_and_any_other_file_is_imported(tmp_path):
    table = write(GOOD[:3], tmp_path / "in", shards=1)
    assert list(done(tmp_path, table)) == ["curate", "shards-aligner", "shards-inspector"]
    bare = tmp_path / "bare.parquet"
    pq.write_table(pa.table({"prompt": ["Why is it so?", "Who asks?"], "completion": ["It is.", "I do."]}), bare)
    (tmp_path / "run" / "run.json").unlink()
    steps = done(tmp_path, str(bare))
    assert list(steps) == ["import", "curate"]
    assert steps["curate"].inputs == ("import",)
    kept = steps["curate"].table("responses").to_arrow().select(["question", "response"]).to_pylist()
    assert kept == [{"question": "Why is it so?", "response": "It is."}, {"question": "Who asks?", "response": "I do."}]
    named = done(tmp_path, str(bare), question_column="completion", kind="questions")["curate"]
    assert named.table("questions").to_arrow().column("question").to_pylist() == ["It is.", "I do."]


def test_a_trainer_without_a_row_gets_no_shards(tmp_path, capsys):
    same = [GOOD[n] | {"identity": True, "correction": GOOD[n]["response"]} for n in range(6)]
    assert list(done(tmp_path, write(same, tmp_path / "in"))) == ["curate", "shards-aligner"]
    assert "shards-inspector: left out, because no row has the inspector_split train" in capsys.readouterr().err


def test_columns_of_a_file_are_checked_before_it_is_imported(tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text("question\nWhy is it so?\n")
    with pytest.raises(UsageError, match="rows.csv: has no column 'score'; it has id, question"):
        done(tmp_path, str(source), keep="score")
    with pytest.raises(UsageError, match="absent.jsonl: no such file"):
        done(tmp_path, str(source), heldout=(str(tmp_path / "absent.jsonl"),))
    assert list(tmp_path.glob("run/import/*/manifest.json")) == []


def test_real_questions(tmp_path, data):
    source = write_head(data, tmp_path, 1500)
    assert curate.main([source, "-o", str(tmp_path / "run")]) == DONE
    imported, stage = open_run(str(tmp_path / "run")).stages
    assert imported.manifest["counts"]["kept"] == 1500
    counts = stage.manifest["counts"]
    assert counts["in"] == 1500
    assert counts["drops"]["exact_duplicate"] == 1500 - counts["kept"] - counts["drops"].get("near_duplicate", 0)
    splits = stage.table("questions").to_arrow().column("split").to_pylist()
    assert 0.65 < splits.count("train") / len(splits) < 0.75


def write_head(data, tmp_path, rows: int) -> str:
    """The first questions of the real file, and every tenth of them again."""
    with gzip.open(data / "questions" / "ethical.csv.gz", "rt", newline="") as file:
        lines = [row["input"] for row in itertools.islice(csv.DictReader(file), rows - rows // 11)]
    path = tmp_path / "questions.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["input"], *([line] for line in lines + lines[: rows // 11])])
    return str(path)


def test_command_line(tmp_path, held_out, capsys):
    settings = tmp_path / "curate.yaml"
    settings.write_text("similarity: {words: 2, jaccard: 0.7}\noverlap_words: 9\n")
    source = write([*GOOD[:30], *BAD.values()], tmp_path / "in")
    output = tmp_path / "run"
    common = [source, "-o", str(output), "--config", str(settings), "--heldout", held_out]
    assert curate.main(common) == DONE
    said = capsys.readouterr().err
    for trainer in ("aligner", "inspector"):
        shards = open_run(str(output)).stage(f"shards-{trainer}")
        assert shards.inputs == ("curate",)
        assert shards.path in said
        assert shards.table("train").rows > 0
    assert curate.main([*common, "--set", "similarity.jaccard=1.5"]) == WRONG_USE
    assert curate.main([*common, "--minimum-yield", "0.99"]) == FAILED
