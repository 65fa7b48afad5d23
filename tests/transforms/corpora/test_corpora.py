import bz2
import errno
import gzip
import json
import lzma
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ingest
from schemas.command_line import DONE_WITH_REJECTS
from schemas.errors import StageError, UsageError
from transforms.corpora import fields, records
from transforms.corpora.fields import FIELDS, MAX_TEXT_CHARS, choose_columns, look_at, schema_of
from transforms.tables.identity import content_id
from transforms.tables.table import read_table


def imported(path, out, **settings):
    stage = ingest.run(ingest.Config(corpus=str(path), output=str(out), **settings))
    kind = settings.get("kind", "responses")
    rejects = stage.table("rejects").to_arrow().select(["line", "error"]).to_pylist()
    return stage.table(kind).to_arrow().to_pylist(), [(row["line"], row["error"]) for row in rejects]


ROWS = [{"question": "Why?", "response": "So.", "score": 3}, {"question": "Who?", "response": "Me.", "score": 4}]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.bz2", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif ending == "json":
        path.write_text(json.dumps(ROWS))
    elif ending in ("csv", "tsv"):
        separator = "," if ending == "csv" else "\t"
        path.write_text(
            "\n".join(separator.join(map(str, row)) for row in [ROWS[0].keys(), *(r.values() for r in ROWS)])
        )
    else:
        data = "\n".join(map(json.dumps, ROWS)).encode()
        path.write_bytes({"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.bz2": bz2.compress}[ending](data))
    rows, rejects = imported(path, tmp_path / "out")
    assert [(row["question"], row["response"], int(row["score"])) for row in rows] == [
        ("Why?", "So.", 3),
        ("Who?", "Me.", 4),
    ]
    assert rejects == []
    assert rows[0]["id"] != rows[1]["id"]


def test_a_bad_line_costs_one_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        b'{"question": "Why?", "response": "So."}',
        b'{"question": "cut',
        b'["a list"]',
        b'{"question": "Why\xff?", "response": "So."}',
        b'{"question": null, "response": "So."}',
        b'{"question": "Why?", "response": "  "}',
        b'{"question": "Why?", "response": 3}',
        b"",
        json.dumps({"question": "Why?", "response": "x" * (MAX_TEXT_CHARS + 1)}).encode(),
        b'{"question": "Last?", "response": "Yes."}',
    ]
    path.write_bytes(b"\n".join(lines))
    rows, rejects = imported(path, tmp_path / "out")
    assert [row["question"] for row in rows] == ["Why?", "Last?"]
    assert rejects == [
        (2, "malformed_json"),
        (3, "not_an_object"),
        (4, "invalid_utf8"),
        (5, "null_question"),
        (6, "empty_response"),
        (7, "response_is_not_text"),
        (9, "response_too_long"),
    ]


def test_a_csv_with_bad_bytes_and_a_short_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'question,response\nWhy?,"So,\nsir."\nWh\xe9?,So.\nalone\n')
    rows, rejects = imported(path, tmp_path / "out")
    assert [row["response"] for row in rows] == ["So,\nsir."]
    assert [error for _, error in rejects] == ["invalid_utf8", "wrong_number_of_fields"]


def test_given_ids_are_kept_and_a_repeated_one_is_rejected(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"id": 7, "question": "a?", "response": "b"}, {"id": 7, "question": "c?", "response": "d"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    rows, rejects = imported(path, tmp_path / "out")
    assert [row["id"] for row in rows] == ["7"]
    assert rejects == [(2, "duplicate_id")]


def test_equal_rows_without_ids_both_stay(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [ROWS[0], ROWS[0]])))
    rows, _ = imported(path, tmp_path / "out")
    assert [row["id"] for row in rows] == [rows[0]["id"]] * 2


def test_other_columns_keep_their_types_and_mixed_ones_become_json(tmp_path):
    table = pa.table({"question": ["a?"], "response": ["b"], "n": pa.array([1], pa.int16()), "tags": [["x", "y"]]})
    pq.write_table(table, tmp_path / "rows.parquet")
    stage = ingest.run(ingest.Config(corpus=str(tmp_path / "rows.parquet"), output=str(tmp_path / "out")))
    assert stage.table("responses").schema.field("n").type == pa.int16()
    assert stage.table("responses").to_arrow()["tags"].to_pylist() == [["x", "y"]]
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"question": "a?", "response": "b", "m": 1}\n{"question": "c?", "response": "d", "m": {"k": 2}}')
    rows, rejects = imported(path, tmp_path / "mixed")
    assert [row["m"] for row in rows] == ["1", '{"k": 2}']
    assert rejects == []


@pytest.mark.parametrize(
    ("names", "kind", "flags", "columns"),
    [
        ("question response turns", "responses", {"messages": "turns"}, "turns turns"),
        ("chosen rejected", "triples", {}, "chosen rejected chosen"),
        ("chosen rejected prompt", "triples", {}, "prompt rejected chosen"),
        ("chosen rejected Prompt", "triples", {}, "Prompt rejected chosen"),
        ("chosen rejected x", "triples", {"question": "x"}, "x rejected chosen"),
        ("query question output answer", "responses", {}, "question output"),
        ("QUERY query Query answer", "responses", {}, "query answer"),
        ("Question prompt answer", "responses", {}, "prompt answer"),
        ("QUERY Query answer", "responses", {}, "QUERY answer"),
        ("question answer x", "responses", {"question": "x"}, "x answer"),
        ("question answer messages", "responses", {}, "question answer"),
        ("question messages", "responses", {}, "messages messages"),
        ("answer messages", "responses", {}, "messages messages"),
        ("question conversation messages", "responses", {}, "messages messages"),
        ("question messages", "responses", {"question": "question"}, None),
        ("question messages", "triples", {}, None),
        ("custom_id response", "responses", {}, None),
        ("question X answer", "responses", {"question": "x"}, None),
    ],
)
def test_columns_are_chosen_in_one_order(tmp_path, names, kind, flags, columns):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(dict.fromkeys(names.split(), "x")))
    if columns is None:
        with pytest.raises(UsageError, match="no column for the|--batch-input"):
            choose_columns(str(path), kind, flags)
    else:
        assert choose_columns(str(path), kind, flags) == dict(zip(FIELDS[kind], columns.split(), strict=True))


def test_results_of_a_batch_are_known_by_the_flag_whatever_else_is_there(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(dict.fromkeys(("custom_id", "response", "question", "messages"), "x")))
    columns = choose_columns(str(path), "responses", {"batch_input": "requests.jsonl"})
    assert columns == {"id": "custom_id", "question": "custom_id", "response": "response"}


def test_preference_dialogues_become_triples(tmp_path):
    path = tmp_path / "pairs.jsonl"
    head = "\n\nHuman: Hello?\n\nAssistant: "
    longer = "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: And?\n\nAssistant: "
    rows = [
        {"chosen": head + "Good day.", "rejected": head + "Go away."},
        {"chosen": longer + "Well.", "rejected": longer + "No."},
        {"chosen": head + "Good day.", "rejected": longer + "No."},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found, rejects = imported(path, tmp_path / "out", kind="triples")
    assert [(row["question"], row["response"], row["correction"]) for row in found] == [
        ("Hello?", "Go away.", "Good day."),
        ("Human: Hi.\n\nAssistant: Yes?\n\nHuman: And?", "No.", "Well."),
    ]
    assert rejects == [(3, "no_common_question")]


def test_questions_answers_and_corrections_become_triples(tmp_path):
    path = tmp_path / "qac.jsonl"
    path.write_text(json.dumps({"question": "q?", "answer": "a", "correction": "a"}))
    found, _ = imported(path, tmp_path / "out", kind="triples")
    assert (found[0]["identity"], found[0]["correction"]) == (True, "a")


def test_what_is_wrong_with_a_whole_file_is_said_before_work(tmp_path):
    def fails(name, content, message, **settings):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises((UsageError, StageError), match=message):
            imported(path, tmp_path / f"out-{name}", **settings)

    fails("a.jsonl", b"", "a.jsonl: holds no record$")
    fails("a.jsonl.gz", b"no gzip", r"a.jsonl.gz: holds no record.*line 1: unreadable_from_here: Not a gzipped")
    fails(
        "b.jsonl",
        b'{"ask": "?", "response": "!"}',
        "b.jsonl: no column for the question.*ask, response.*--question-column",
    )
    fails("c.docx", b"x", "c.docx: what is this")
    fails("d.json", b'{"question": 1}', "d.json: holds no record.*expected a JSON array")
    fails("e.parquet", b"PAR1 no", "e.parquet: not a whole Parquet file")
    fails(
        "f.jsonl",
        b'{"question": "a?", "response": "b"}',
        "no column for the response: looked for reply",
        response_column="reply",
    )
    fails("g.jsonl", b'{"question": null, "response": null}', "not one row could be used")
    with pytest.raises(UsageError, match="absent.jsonl: no such file"):
        imported(tmp_path / "absent.jsonl", tmp_path / "out")


def test_another_corpus_in_the_same_place_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name, "response": "x"}))
    imported(tmp_path / "a.jsonl", tmp_path / "out")
    with pytest.raises(UsageError, match="holds the results of another input"):
        imported(tmp_path / "b.jsonl", tmp_path / "out")


@given(st.binary(max_size=200))
def test_no_bytes_can_break_a_jsonl_file(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("junk") / "rows.jsonl"
    path.write_bytes(b'{"question": "a?", "response": "b"}\n' + junk + b'\n{"question": "c?", "response": "d"}')
    lines = [line for line in records.read_lines(str(path)) if line.error is None]
    assert (lines[0].values["question"], lines[-1].values["question"]) == ("a?", "c?")


def lines(rows):
    return "\n".join(json.dumps({"question": f"{content_id(str(n))}?", "response": "x"}) for n in range(rows)).encode()


def compress(text: bytes, ending: str) -> bytes:
    if ending == "zst":
        return pa.compress(text, "zstd", asbytes=True)
    return {"gz": gzip, "bz2": bz2, "xz": lzma}[ending].compress(text)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_file_that_breaks_off_gives_what_stands_before(tmp_path, ending):
    whole = compress(lines(30_000), ending)
    path = tmp_path / f"rows.jsonl.{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    rows, rejects = imported(path, tmp_path / "out")
    assert 1000 < len(rows) < 30_000
    assert rejects == [(len(rows) + 1, "unreadable_from_here")]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_zstandard_is_read_frame_after_frame(tmp_path, kind):
    parts = {"jsonl": (b'{"question": "a?", "response": "b"}\n', b'{"question": "c?", "response": "d"}\n')}
    parts["csv"] = (b"question,response\na?,b\n", b"c?,d\n")
    path = tmp_path / f"rows.{kind}.zst"
    path.write_bytes(b"".join(compress(part, "zst") for part in parts[kind]))
    rows, rejects = imported(path, tmp_path / "out")
    assert ([row["question"] for row in rows], rejects) == (["a?", "c?"], [])


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), TimeoutError("no answer"), ConnectionResetError("by peer")]
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_disk_or_network_that_fails_is_no_broken_record(tmp_path, monkeypatch, name, error):
    def fails(*_):
        raise error

    path = tmp_path / name
    path.write_bytes(lines(3))
    monkeypatch.setattr(records, "_json_line", fails)
    monkeypatch.setattr(records.pq, "ParquetFile", fails)
    with pytest.raises(StageError, match=f"{name}: cannot be read .*the same command goes on"):
        imported(path, tmp_path / "out")


def test_an_import_that_fails_keeps_the_files_that_it_had_read(tmp_path, monkeypatch):
    folder = tmp_path / "answers"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jsonl").write_bytes(lines(3))
    read_chunks, called = fields.read_chunks, []

    def fails_at_the_last(shard, *rest):
        called.append(shard)
        if len(called) == 3:
            raise StageError("gone")
        yield from read_chunks(shard, *rest)

    monkeypatch.setattr(ingest, "read_chunks", fails_at_the_last)
    with pytest.raises(StageError, match="gone"):
        imported(folder, tmp_path / "out")
    assert len(list((tmp_path / "out" / "entries").iterdir())) >= 1
    monkeypatch.undo()
    rows, _ = imported(folder, tmp_path / "out")
    assert len(rows) == 9


def test_what_would_be_read_or_written_twice_is_refused(tmp_path):
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(2))
    (tmp_path / "link").symlink_to(folder)
    for corpus, out in ((folder, folder / "out"), (tmp_path / "link", folder)):
        with pytest.raises(UsageError, match="lies in the corpus .*, of which it would be a part"):
            imported(corpus, out)
    assert len(imported(folder, folder / ".." / "out")[0]) == 2
    pq.write_table(pa.table({"question": ["a?"], "response": ["b"]}), folder / "a.jsonl.parquet")
    with pytest.raises(UsageError, match="answers: a.jsonl and a.jsonl.parquet would be one file in the output"):
        imported(folder, tmp_path / "out")


def test_garbage_within_a_compressed_file_costs_what_follows(tmp_path):
    whole = bytearray(gzip.compress(lines(30_000)))
    middle = len(whole) // 2
    whole[middle : middle + 5000] = b"\xff" * 5000
    (tmp_path / "rows.jsonl.gz").write_bytes(whole)
    rows, rejects = imported(tmp_path / "rows.jsonl.gz", tmp_path / "out")
    assert 1000 < len(rows) < 30_000
    assert rejects[-1][1] == "unreadable_from_here"


def test_a_limit_also_bounds_what_is_looked_at_for_types(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": "a?", "response": "b", "n": n} for n in (1, 2, "three")]
    path.write_text("\n".join(map(json.dumps, rows)))
    for limit, expected in ((2, pa.int64()), (None, pa.string())):
        look = look_at(str(path), "responses", {}, limit)
        assert schema_of("responses", [look]).field("n").type == expected
    found, rejects = imported(path, tmp_path / "out", limit=2)
    assert ([row["n"] for row in found], rejects) == ([1, 2], [])


@pytest.mark.parametrize("nested", [False, True])
def test_bytes_that_are_not_utf8_in_a_parquet_file_cost_their_rows(tmp_path, nested):
    notes = pa.array([b"fine", b"\xff\xfe", None, b"\xe9"], pa.binary()).view(pa.string())
    if nested:
        notes = pa.ListArray.from_arrays([0, 1, 2, 3, 4], notes)
    table = pa.table({"question": ["a?", "b?", "c?", "d?"], "response": list("abcd"), "note": notes})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows, rejects = imported(tmp_path / "rows.parquet", tmp_path / "out")
    assert [row["question"] for row in rows] == ["a?", "c?"]
    assert rejects == [(2, "invalid_utf8"), (4, "invalid_utf8")]


def test_values_that_arrow_cannot_hold(tmp_path):
    path = tmp_path / "rows.jsonl"
    start = '{"question": "a?", "response": "b", "note": '
    path.write_text(f'{start}["\\ud800"]}}\n{start}{2**70}}}\n{start}{"[" * 100_000}')
    rows, rejects = imported(path, tmp_path / "out")
    assert [row["note"] for row in rows] == [str(2**70)]
    assert rejects == [(1, "invalid_utf8"), (3, "malformed_json")]


@pytest.mark.parametrize("value", [{}, [{}], {"a": [{}]}])
def test_empty_objects_become_json(tmp_path, value):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "a?", "response": "b", "note": value}))
    assert imported(tmp_path / "rows.jsonl", tmp_path / "out")[0][0]["note"] == json.dumps(value)


def test_other_columns_may_be_called_as_a_reject_calls_its_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"question": "a?", "response": "b", "error": "E1", "line": "first", "raw": 7, "source": [1]}
    path.write_text(json.dumps(row) + '\n{"question": "cut')
    stage = ingest.run(ingest.Config(corpus=str(path), output=str(tmp_path / "out")))
    found = stage.table("responses").to_arrow().to_pylist()
    assert found == [row | {"id": found[0]["id"]}]
    assert stage.table("rejects").to_arrow().to_pylist() == [
        {"source": str(path), "line": 2, "raw": '{"question": "cut', "error": "malformed_json"}
    ]


def test_a_column_that_would_be_overwritten_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"prompt": "a?", "question": "other", "response": "b", "correction": "c", "identity": 1})
    )
    with pytest.raises(
        UsageError, match=r"rows.jsonl: column 'question' would be overwritten .*question from 'prompt'"
    ):
        imported(path, tmp_path / "out", question_column="prompt")
    with pytest.raises(UsageError, match="column 'identity' would be overwritten"):
        imported(path, tmp_path / "out", kind="triples")
    swapped, _ = imported(path, tmp_path / "out", question_column="response", response_column="question")
    assert [(row["question"], row["response"]) for row in swapped] == [("b", "other")]


def test_a_triples_own_question_id_stays(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "a?", "response": "b", "correction": "c", "question_id": "q7"}))
    assert imported(path, tmp_path / "out", kind="triples")[0][0]["question_id"] == "q7"


def test_an_interrupted_import_is_not_mixed_with_another(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("1", "2"):
            (tmp_path / folder / f"{name}.jsonl").write_text(json.dumps({"question": folder + name, "response": "x"}))
    out = tmp_path / "out"
    imported(tmp_path / "a" / "*.jsonl", out)
    (out / "manifest.json").unlink()  # as if it had been interrupted
    (out / "entries" / "2.jsonl.json").unlink()
    with pytest.raises(UsageError, match="out: holds an unfinished import of another input"):
        imported(tmp_path / "b" / "*.jsonl", out)
    rows, _ = imported(tmp_path / "a" / "*.jsonl", out)
    assert [row["question"] for row in rows] == ["a1", "a2"]


def test_a_table_is_no_corpus(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    imported(tmp_path / "a.jsonl", tmp_path / "out")
    with pytest.raises(UsageError, match="out: is a table already"):
        imported(tmp_path / "out", tmp_path / "again")


CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_chats_last_assistant_turn_is_the_response(tmp_path, ending):
    longer = [{"role": "system", "content": "Be kind."}, *CHAT, *CHAT]
    chats = [{"prompt_id": "p1", "messages": CHAT}, {"prompt_id": "p2", "messages": longer}]
    chats.append({"prompt_id": "p3", "messages": CHAT[:1]})
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(chats), path)
    else:
        path.write_text("\n".join(map(json.dumps, chats)))
    rows, rejects = imported(path, tmp_path / "out")
    assert [(row["question"], row["response"]) for row in rows] == [
        ("Why?", "So."),
        ("System: Be kind.\n\nHuman: Why?\n\nAssistant: So.\n\nHuman: Why?", "So."),
    ]
    assert [(row["prompt_id"], row["messages"]) for row in rows] == [("p1", CHAT), ("p2", longer)]
    assert rejects == [(3, "no_assistant_turn_at_the_end")]


def test_a_chat_column_of_any_name(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "p", "output": "o", "turns": CHAT}))
    assert imported(path, tmp_path / "usual")[0][0]["response"] == "o"
    (row,), _ = imported(path, tmp_path / "named", messages_column="turns")
    assert (row["question"], row["response"], row["prompt"], row["turns"]) == ("Why?", "So.", "p", CHAT)
    for settings, message in (
        ({"messages_column": "chat"}, "no column 'chat' .--messages-column. among prompt, output, turns"),
        ({"messages_column": "turns", "question_column": "prompt"}, "--messages-column: .* leave out .* question"),
        ({"messages_column": "turns", "kind": "triples"}, "--messages-column: gives responses, not triples"),
    ):
        with pytest.raises(UsageError, match=message):
            imported(path, tmp_path / "wrong", **settings)


def test_results_of_a_batch_api_meet_their_requests(tmp_path):
    def result(custom_id, text, status=200):
        body = {"model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
        return {"id": f"batch_req_{text}", "custom_id": custom_id, "response": {"status_code": status, "body": body}}

    results = [
        result("b", "Me."),
        result("a", "So."),
        result("c", "Lost."),
        result("a", "Again."),
        result("d", "", 500),
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(json.dumps(row | {"error": None}) for row in results))
    requests = [
        {"custom_id": name, "method": "POST", "body": {"messages": [{"role": "user", "content": question}]}}
        for name, question in {"a": "Why?", "b": "Who?", "d": "When?"}.items()
    ]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)))
    given = {"batch_input": str(tmp_path / "requests.jsonl")}
    rows, rejects = imported(tmp_path / "results.jsonl", tmp_path / "out", **given)
    assert [(row["id"], row["question"], row["response"]) for row in rows] == [
        ("b", "Who?", "Me."),
        ("a", "Why?", "So."),
    ]
    assert rejects == [(3, "no_request_with_this_custom_id"), (4, "duplicate_id"), (5, "request_failed")]
    for corpus, settings, message in (
        ("results.jsonl", {}, "results.jsonl: results of a batch API; .* --batch-input"),
        ("requests.jsonl", given, "requests.jsonl: no results of a batch API: no column response"),
        ("results.jsonl", {"batch_input": str(tmp_path / "results.jsonl")}, "no requests of a batch API: .* no body"),
    ):
        with pytest.raises(UsageError, match=message):
            imported(tmp_path / corpus, tmp_path / "wrong", **settings)
    (tmp_path / "requests.jsonl").write_text(json.dumps(requests[0]))
    rows, _ = imported(tmp_path / "results.jsonl", tmp_path / "out", **given)  # other requests: imported again
    assert [row["id"] for row in rows] == ["a"]


def test_outputs_as_alpaca_eval_has_them(tmp_path):
    row = {"dataset": "vicuna", "instruction": "Why?", "output": "So.", "generator": "some-model"}
    path = tmp_path / "model_outputs.json"
    path.write_text(json.dumps([row, row | {"instruction": "Who?", "output": ""}]))
    rows, rejects = imported(path, tmp_path / "out")
    assert rows == [
        {"id": rows[0]["id"], "question": "Why?", "response": "So.", "dataset": "vicuna", "generator": "some-model"}
    ]
    assert rejects == [(2, "empty_response")]


def test_parquet_types_pass_through_exactly(tmp_path):
    others = pa.table(
        {
            "dictionary": pa.array(["u", "v"]).dictionary_encode(),
            "decimal": pa.array(["1.20", None]).cast(pa.decimal128(20, 2)),
            "timestamp": pa.array([1, 2], pa.timestamp("ns", "UTC")),
            "nested": pa.array([[{"a": [1, None]}, None], None], pa.list_(pa.struct({"a": pa.list_(pa.int16())}))),
            "time": pa.array([1, None], pa.time64("ns")),
            "binary": pa.array([b"\xff", None]),
            "large_text": pa.array(["q", "r"], pa.large_string()),
            "integer": pa.array([(1 << 62) + 1, None]),
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "float": pa.array([0.1, None], pa.float32()),
            "null": pa.nulls(2),
        }
    )
    path = tmp_path / "rows.parquet"
    pq.write_table(others.append_column("question", [["a?", "b?"]]).append_column("response", [["c", "d"]]), path)
    stage = ingest.run(ingest.Config(corpus=str(path), output=str(tmp_path / "out")))
    found = stage.table("responses").to_arrow().select(others.column_names)
    assert found.equals(pq.read_table(path, columns=others.column_names))


def folder(path, **files):
    path.mkdir()
    for name, rows in files.items():
        if isinstance(rows, pa.Table):
            pq.write_table(rows, path / f"{name}.parquet")
        else:
            (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def test_files_may_differ_in_order_and_in_columns_that_only_some_have(tmp_path):
    a, b = (
        {"question": "a?", "response": "r", "score": 1, "tag": "t"},
        {"score": 0.5, "response": "r", "question": "b?"},
    )
    for name, files in (
        ("json", {"a": [a], "b": [b]}),
        ("parquet", {"a": pa.Table.from_pylist([a | {"score": 1.0}]), "b": pa.Table.from_pylist([b])}),
        ("both", {"a": pa.Table.from_pylist([a | {"score": 1.0}]), "b": [b]}),
    ):
        rows, _ = imported(folder(tmp_path / name, **files), tmp_path / f"out-{name}")
        assert [(row["question"], row["score"], row["tag"]) for row in rows] == [("a?", 1.0, "t"), ("b?", 0.5, None)]


@pytest.mark.parametrize(("other", "type"), [(0.5, "double"), ("many", "string"), ([1], "list<element: int64>")])
def test_parquet_files_that_disagree_on_a_type_are_both_named(tmp_path, other, type):
    rows = [{"question": "q?", "response": "r", "score": score} for score in (1, 1, other)]
    tables = {name: pa.Table.from_pylist([row]) for name, row in zip("abc", rows, strict=True)}
    with pytest.raises(UsageError, match=f"/a.parquet: column 'score' is int64, in .*/c.parquet {type};"):
        imported(folder(tmp_path / "rows", **tables), tmp_path / "out")


def test_files_that_cannot_be_read_are_told_and_the_others_are_done(tmp_path, capsys):
    table = pa.table({"question": ["a?"], "response": ["b"]})
    files = dict.fromkeys(("cut", "damaged", "good", "none"), table) | {"nothing": [], "broken": [7]}
    path = folder(tmp_path / "rows", **files | {"none": table.slice(0, 0)})
    whole = (path / "cut.parquet").read_bytes()
    (path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (path / "damaged.parquet").write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    assert ingest.main([str(path), "-o", str(tmp_path / "out")]) == DONE_WITH_REJECTS
    said = capsys.readouterr().err
    for name, why in (
        ("cut.parquet", "not a whole Parquet file"),
        ("broken.jsonl", "holds no record that can be read .line 1: not_an_object"),
        ("none.parquet", "holds no record\n"),
        ("nothing.jsonl", "holds no record\n"),
    ):
        assert re.search(f"left out: .*/{name}: {why}", said)
    found = read_table(str(tmp_path / "out"), "rejects").to_arrow().to_pylist()
    assert [(row["source"].rpartition("/")[2], row["error"]) for row in found] == [
        ("broken.jsonl", "not_an_object"),
        ("cut.parquet", "unreadable_from_here"),
        ("damaged.parquet", "unreadable_from_here"),
    ]
    assert read_table(str(tmp_path / "out")).to_arrow()["question"].to_pylist() == ["a?"]


def test_batches_are_cut_where_rows_are_large(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "BATCH_BYTES", 3000)
    rows = [{"question": f"{n}?", "response": "r", "note": content_id(str(n)) * 32} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("\n".join(",".join(row) for row in [rows[0], *(row.values() for row in rows)]))
    for ending in ("jsonl", "json", "parquet", "csv"):
        batches = [len(lines) for lines, _ in records.read_batches(str(tmp_path / f"rows.{ending}"))]
        assert sum(batches) == 9
        assert 1 < max(batches) < 4


def test_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([["q?"], ["r"], [1], [2]], names=["question", "response", "n", "n"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match="rows.parquet: has several columns called n"):
        imported(tmp_path / "rows.parquet", tmp_path / "out")


def test_a_link_counts_as_what_it_leads_to(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    row = json.dumps({"question": "q?", "response": "r"})
    (tmp_path / "elsewhere" / "b.jsonl").write_text(row)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "latest.jsonl").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "b.jsonl").symlink_to(tmp_path / "elsewhere" / "b.jsonl")
    assert records.find_files(str(tmp_path / "corpus")) == [str(tmp_path / "corpus" / "b.jsonl")]
