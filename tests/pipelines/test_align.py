"""Align from end to end with a scripted aligner and an inspector that counts: what passes through, what is told."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pytest
from one_step import do

from pipelines import curate, ingest, respond, triples
from pipelines.commands import align, check
from pipelines.commands import curate as curate_command
from pipelines.runtime import stage as stages
from pipelines.runtime.at_work import at_work
from pipelines.runtime.runs import open_run
from schemas.children import child_environment
from schemas.command_line import DONE, DONE_WITH_REJECTS, WRONG_USE
from schemas.errors import StageError, UsageError
from schemas.settings import Layer, resolve
from transforms.corpora import looks
from transforms.tables import storage
from transforms.tables.write import write_tables

SCRIPTED = {"engine": "scripted", "args": {"function": "tests.scripted_models:aligner"}}
TEACHER = {"engine": "scripted", "args": {"function": "tests.scripted_models:teacher"}}


class Lengths:
    """Longer is better."""

    def score(self, questions, answers):
        return np.array([min(len(answer) / 100, 1.0) for answer in answers])


@pytest.fixture(autouse=True)
def lengths(monkeypatch):
    for module in ("alignment.scoring", "evaluation.judges"):
        monkeypatch.setattr(f"transforms.{module}.open_inspector", lambda folder, bf16=False: Lengths())
    for module in ("transforms.alignment.members", "pipelines.runtime.steps"):
        monkeypatch.setattr(f"{module}.check_inspector", lambda folder: None)
    monkeypatch.setattr("pipelines.runtime.steps.inspector_digest", lambda folder: folder)


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def row(n, **more):
    return {"question": f"q{n}?", "response": f"r{n}", **more}


def table(path, tables, shard_rows=1):
    made = {name: pa.Table.from_pylist(rows) for name, rows in tables.items()}
    write_tables(str(path), made, {"stage": "made"}, shard_rows)
    return str(path)


def config(tmp_path, corpus, **settings):
    given = {"aligner": ("scripted",), "inspector": ("length",), "engine": SCRIPTED, "output": str(tmp_path / "run")}
    return resolve(align.Config, [Layer("test", {"corpus": corpus, **given, **settings})]).config


def aligned(config):
    """The stage that the command does last."""
    return align.align_corpus(config)[-1]


def command(tmp_path, corpus, *more):
    settings = tmp_path / "align.yaml"
    settings.write_text(json.dumps({"engine": SCRIPTED}))
    flags = ["--aligner", "scripted", "--inspector", "length", "-o", str(tmp_path / "run"), "--config", str(settings)]
    return align.main([corpus, *flags, *more])


def test_columns_of_any_name_pass_through_untouched(tmp_path):
    names = ("prompt", "completion", "finish_reason", "error", "drop_reason", "scores", "candidate", "step_1", "line")
    theirs = {name: f"their {name}" for name in names}
    stage = aligned(config(tmp_path, write(tmp_path / "rows.jsonl", row(1, **theirs, draw=[7]), row(2))))
    first, second = stage.table("aligned").to_arrow().to_pylist()
    assert {name: first[name] for name in (*names, "draw")} == theirs | {"draw": [7]}
    assert {second[name] for name in names} == {None}
    assert [entry["decision"] for entry in (first, second)] == ["rewritten"] * 2
    assert first["aligned"].startswith("A kinder word")
    steps = stage.table("trajectories").to_arrow().to_pylist()
    assert [step["text"] for step in steps][:2] == ["r1", first["aligned"]]
    assert stage.read_manifest()["counts"]["rejects"] == {}


def test_a_table_without_its_columns_or_with_columns_in_the_way_is_refused_before_work(tmp_path):
    theirs = {"id": "1", **row(1), "aligned": "x", "decision": "rewritten"}
    full = table(tmp_path / "full", {"responses": [theirs]})
    with pytest.raises(UsageError, match="full: has 'aligned', 'decision' already, which align adds"):
        aligned(config(tmp_path, full, output=str(tmp_path / "other")))
    poor = table(tmp_path / "poor", {"questions": [{"id": "1", "topic": "t"}]})
    good = table(tmp_path / "good", {"questions": [{"id": "1", "question": "Why?"}]})
    with pytest.raises(UsageError, match="poor: has no column 'question', 'response'; it has id, topic"):
        aligned(config(tmp_path, poor, output=str(tmp_path / "other")))
    cases = [
        (triples.KIND, triples.Config(questions=poor, model="m", pack="ethical")),
        (respond.KIND, respond.Config(questions=poor, model="m")),
        (curate.KIND, curate.Config(table=poor)),
        (curate.KIND, curate.Config(table=good, heldout=(poor,))),
    ]
    for kind, settings in cases:
        with pytest.raises(UsageError, match="poor: has no column 'question'; it has id, topic"):
            do(kind, settings, tmp_path / "run", TEACHER)
    numbered = table(tmp_path / "numbered", {"questions": [{"id": 1, "question": "q?"}]})
    with pytest.raises(UsageError, match="numbered: column 'id' is not text but int64"):
        do(respond.KIND, respond.Config(questions=numbered, model="m"), tmp_path / "run", TEACHER)
    for run, settings in (
        (aligned, config(tmp_path, poor, output=str(tmp_path / "other"), question_column="q")),
        (curate_command.run, curate_command.Config(input=poor, output=str(tmp_path / "run"), question_column="q")),
    ):
        with pytest.raises(UsageError, match="poor: is a table made by a stage.*leave out --question-column q"):
            run(settings)


def test_triples_are_asked_for_whatever_else_a_table_holds(tmp_path):
    odd = {"error": "theirs", "drop_reason": "theirs", "draw": "x", "prompt": 3, "response": "old", "finish_reason": 1}
    questions = table(tmp_path / "odd", {"questions": [{"id": "1", "question": "What?", **odd}]})
    settings = {"questions": questions, "model": "teacher"}
    written = do(triples.KIND, triples.Config(pack="ethical", **settings), tmp_path / "run", TEACHER)
    assert written.read_manifest()["counts"]["kept"] == 1
    answers = do(respond.KIND, respond.Config(**settings), tmp_path / "run", TEACHER).table().to_arrow().to_pylist()
    assert [answer["response"][:11] for answer in answers] == ["It is about"]


def test_a_chat_is_aligned_in_its_context_and_stays_as_it_is(tmp_path):
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Shut up."},
    ]
    given = {"turns": chat, "topic": "t"}
    engine = SCRIPTED | {"args": {"function": "tests.scripted_models:reads_little"}}
    long = {"turns": [*chat[:2], {"role": "assistant", "content": "No. " * 200}], "topic": "u"}
    corpus = write(tmp_path / "rows.jsonl", given, long)
    stage = aligned(config(tmp_path, corpus, messages_column="turns", engine=engine, every_row=True))
    first, second = stage.table("aligned").to_arrow().to_pylist()
    assert (first["question"], first["response"]) == ("System: Be kind.\n\nHuman: Why?", "Shut up.")
    assert {name: first[name] for name in given} == given
    assert first["decision"] == "rewritten"
    assert (second["decision"], second["aligned"]) == ("failed", second["response"])
    assert stage.read_manifest()["counts"]["rejects"] == {"prompt_too_long": 1}
    made = table(tmp_path / "made", {"responses": [{"id": "1", **row(1)}]})
    for settings, flag in (
        ({"messages_column": "m"}, "--messages-column m"),
        ({"batch_input": "b"}, "--batch-input b"),
    ):
        with pytest.raises(UsageError, match=f"made: is a table made by a stage.*leave out {flag}"):
            aligned(config(tmp_path, made, output=str(tmp_path / "other"), **settings))


def test_a_file_that_cannot_be_read_leaves_the_others_aligned(tmp_path, capsys):
    for n in (1, 3):
        write(tmp_path / "corpus" / f"{n}.jsonl", row(n))
    (tmp_path / "corpus" / "2.parquet").write_bytes(b"PAR1 cut")
    assert command(tmp_path, str(tmp_path / "corpus")) == DONE_WITH_REJECTS
    said = " ".join(capsys.readouterr().err.split())
    assert "/corpus/2.parquet: not a whole Parquet file" in said
    assert "rejected 1 unreadable_from_here" in said
    assert "align in 2 kept 2" in said


def test_rows_lost_at_import_are_told_and_count(tmp_path, capsys):
    corpus = write(tmp_path / "rows.jsonl", row(1), '{"question": "cut', row(2))
    for _ in range(2):  # the second time all is found done
        assert command(tmp_path, corpus) == DONE_WITH_REJECTS
        said = " ".join(capsys.readouterr().err.split())
        assert "import in 3 kept 2 rejected 1 malformed_json" in said
        assert "align in 2 kept 2" in said
    assert command(tmp_path, write(tmp_path / "good.jsonl", row(1))) == WRONG_USE
    assert "run: holds the results of" in " ".join(capsys.readouterr().err.split())
    questions = write(tmp_path / "questions.jsonl", '{"question": "Why is it so?"}', '{"question": null}')
    assert curate_command.main([questions, "-o", str(tmp_path / "run")]) == DONE_WITH_REJECTS
    said = " ".join(capsys.readouterr().err.split())
    assert "import in 2 kept 1 rejected 1 null_question" in said


def test_a_rerun_does_the_shards_that_are_new_or_changed(tmp_path, monkeypatch):
    folder = tmp_path / "landing"
    for name, number in (("b", 1), ("d", 2), ("e", 3)):
        write(folder / f"{name}.jsonl", row(number))
    first = aligned(config(tmp_path, str(folder)))
    asked, expected = tmp_path / "asked", []
    monkeypatch.setenv("ALIGNBEAM_TEST_LOG", str(asked))
    monkeypatch.setattr(stages, "watch", lambda rows: nullcontext(expected.append(rows)))
    kept = f"{first.directory}/aligned/d.jsonl.parquet"
    before = os.stat(kept).st_mtime_ns
    assert aligned(config(tmp_path, str(folder))).directory == first.directory
    assert not asked.exists()
    write(folder / "a.jsonl", row(4), row(5))  # lands before the others
    write(folder / "b.jsonl", row(6), row(1))
    (folder / "e.jsonl").unlink()
    again = aligned(config(tmp_path, str(folder)))
    assert again.directory == first.directory
    assert len(asked.read_text().splitlines()) == 3  # rows 4, 5 and 6; row 1 is in the cache
    assert expected == [4]
    assert os.stat(kept).st_mtime_ns == before
    table = again.table("aligned")
    assert [shard.name for shard in table.shards] == ["a.jsonl", "b.jsonl", "d.jsonl"]
    assert table.to_arrow()["question"].to_pylist() == ["q4?", "q5?", "q6?", "q1?", "q2?"]
    steps = again.table("trajectories").to_arrow().to_pylist()
    assert {(step["shard"], step["row"]) for step in steps} == {
        *(("a.jsonl", 0), ("a.jsonl", 1), ("b.jsonl", 0), ("b.jsonl", 1), ("d.jsonl", 0))
    }


def test_what_lies_there_can_be_read_until_a_rerun_is_done(tmp_path, monkeypatch):
    folder = tmp_path / "landing"
    write(folder / "a.jsonl", row(1))
    stage = aligned(config(tmp_path, str(folder)))

    def fail(*_, **__):
        raise StageError("stopped")

    write(folder / "b.jsonl", row(2))
    monkeypatch.setattr("pipelines.align.build", fail)
    with pytest.raises(StageError, match="stopped"):
        aligned(config(tmp_path, str(folder)))
    assert stage.table("aligned").rows == 1
    write(folder / "a.jsonl", row(3))
    with pytest.raises(StageError, match="stopped"):
        aligned(config(tmp_path, str(folder)))
    with pytest.raises(UsageError, match="manifest"):
        stage.table("aligned")


def test_two_runs_at_once_are_not_let_into_one_directory(tmp_path):
    corpus = write(tmp_path / "rows.jsonl", row(1))
    stage = aligned(config(tmp_path, corpus))
    os.remove(f"{stage.directory}/manifest.json")
    with at_work(stage.directory):
        with pytest.raises(UsageError, match=f"process {os.getpid()} is at work there; wait for it"):
            aligned(config(tmp_path, corpus))
        left = shutil.copy(f"{stage.directory}/at_work.lock", tmp_path)
    shutil.copy(left, stage.directory)  # as a process leaves it that was killed
    assert aligned(config(tmp_path, corpus)).is_done()
    assert not os.path.exists(f"{stage.directory}/at_work.lock")


def test_a_killed_process_holds_no_directory(tmp_path):
    held = "from pipelines.runtime.at_work import at_work\nwith at_work('.'): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", held], cwd=tmp_path, env=child_environment(), stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {process.pid} is at work there"), at_work(str(tmp_path)):
            pass
        process.kill()
    with at_work(str(tmp_path)):
        pass


def test_on_a_store_a_process_is_found_by_its_number():
    note = {"host": socket.gethostname(), "process": os.getppid()}
    storage.write_json("memory://held/at_work.lock", note)
    with pytest.raises(UsageError, match=f"memory://held: process {os.getppid()} is at work"), at_work("memory://held"):
        pass
    storage.write_json("memory://held/at_work.lock", note | {"process": 2**22 + 1})  # no process has such a number
    with at_work("memory://held"):
        assert storage.read_json("memory://held/at_work.lock")["process"] == os.getpid()
    assert not storage.exists("memory://held/at_work.lock")


def test_a_second_run_touches_nothing_that_the_first_one_reads(tmp_path):
    corpus = write(tmp_path / "rows.jsonl", row(1))
    aligned(config(tmp_path, corpus))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    write(tmp_path / "rows.jsonl", row(2), row(3))
    with (
        at_work(str(tmp_path / "run")),
        pytest.raises(UsageError, match="run: process .* is at work there"),
    ):
        aligned(config(tmp_path, corpus))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")} == before


def test_a_task_that_retries_leaves_the_shards_of_others(tmp_path):
    rows = [{"id": str(n), **row(n)} for n in range(2)]
    for one in rows:
        one["response"] = " "  # a reject each time
    corpus = table(tmp_path / "corpus", {"responses": rows})
    for more in ((), ("--retry-failed",)):
        assert command(tmp_path, corpus, "--shard", "1/2", *more) == DONE_WITH_REJECTS
        assert command(tmp_path, corpus, "--shard", "2/2", *more) == DONE_WITH_REJECTS
        [manifest] = (tmp_path / "run" / "align").glob("*/manifest.json")
        assert json.loads(manifest.read_text())["counts"]["in"] == 2


def test_a_rerun_does_not_read_what_is_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "answers"
    folder.mkdir()
    write(folder / "a.jsonl", row(1, note=2**60, parts=[{"x": 1}]))
    write(folder / "b.jsonl", row(2, note=1))
    stage = aligned(config(tmp_path, str(folder)))
    looked = []
    look_at = looks.look_at
    monkeypatch.setattr(looks, "look_at", lambda path, *rest: looked.append(path) or look_at(path, *rest))
    looks.forget()
    assert aligned(config(tmp_path, str(folder))) == stage
    assert looked == []
    write(folder / "c.jsonl", row(3, note=3))
    looks.forget()
    assert aligned(config(tmp_path, str(folder))).directory == stage.directory
    assert looked == [str(folder / "c.jsonl")]


def test_a_retry_that_fails_does_not_put_back_what_another_task_has_replaced(tmp_path):
    rows = [{"id": str(n), "question": f"q{n}?", "response": " "} for n in range(2)]
    corpus = table(tmp_path / "corpus", {"responses": rows})
    command(tmp_path, corpus)
    [manifest] = (tmp_path / "run" / "align").glob("*/manifest.json")
    stage = aligned(config(tmp_path, corpus))
    other = manifest.parent / "entries" / "shard-00001.json"

    def fails(changes):
        with stage.reopened(["shard-00000"]):
            if changes:
                other.write_text(json.dumps(json.loads(other.read_text()) | {"in": 7}))
            raise StageError("gone")

    for changes in (False, True):
        with pytest.raises(StageError, match="gone"):
            fails(changes)
        assert manifest.exists() != changes
        assert (manifest.parent / "entries" / "shard-00000.json").exists()


def test_columns_that_are_in_the_way_are_told_before_the_import(tmp_path):
    corpus = write(tmp_path / "rows.jsonl", row(1, aligned="x"))
    with pytest.raises(UsageError, match="aligned"):
        aligned(config(tmp_path, corpus))
    assert not list((tmp_path / "run").rglob("*.parquet"))
    with pytest.raises(UsageError, match="limit: must be at least 1, not 0"):
        config(tmp_path, corpus, limit=0)


def test_a_run_directory_may_have_brackets(tmp_path):
    corpus = write(tmp_path / "rows.jsonl", row(1))
    first = aligned(config(tmp_path, corpus, output=str(tmp_path / "run[1]")))
    assert first.table("aligned").rows == 1


def test_a_task_whose_shards_had_rejects_says_so(tmp_path):
    rows = [{"id": str(n), **row(n)} for n in range(4)]
    rows[2]["response"] = " "
    corpus = table(tmp_path / "corpus", {"responses": rows})
    assert command(tmp_path, corpus, "--shard", "3/4") == DONE_WITH_REJECTS
    assert command(tmp_path, corpus, "--shard", "2/4") == DONE
    assert command(tmp_path, corpus, "--shard", "1/4") == DONE
    assert command(tmp_path, corpus, "--shard", "4/4") == DONE_WITH_REJECTS  # it completes the table


def test_an_edited_input_is_imported_again(tmp_path):
    corpus = tmp_path / "rows.jsonl"
    for count in (1, 2):
        stage = aligned(config(tmp_path, write(corpus, *map(row, range(count)))))
        assert stage.table("aligned").rows == count
    questions = tmp_path / "questions.jsonl"
    for number in (1, 2):
        rows = [{"question": question} for question in ("Why is it so?", "Who was there then?")[:number]]
        settings = curate_command.Config(input=write(questions, *rows), output=str(tmp_path / "run"))
        assert curate_command.run(settings) == DONE
        (curated,) = [stage for stage in open_run(str(tmp_path / "run")).stages if stage.name == "curate"]
        assert curated.rows.kept == number


def test_check_describes_a_table(tmp_path, capsys):
    corpus = write(tmp_path / "rows.jsonl", row(1, topic="t"), "{")
    ingest.import_into(ingest.Config(corpus=corpus), str(tmp_path / "out"))
    assert check.main([str(tmp_path / "out")]) == DONE
    said = capsys.readouterr().err
    assert "responses, made by import: 1 rows in 1 shards; columns id, question, response, topic" in said
    assert "rejects, made by import: 1 rows" in said
    shard = tmp_path / "out" / "responses" / "rows.jsonl.parquet"
    shard.write_bytes(shard.read_bytes()[:50])
    assert check.main([str(tmp_path / "out")]) == WRONG_USE
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"version": 3}')
    capsys.readouterr()
    assert check.main([str(tmp_path / "other")]) == WRONG_USE
    assert "other: its manifest.json lists no table" in capsys.readouterr().err
