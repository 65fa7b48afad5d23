"""Columns of a corpus: which holds which text, what the others become, and ids."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imported_corpus import ROWS, imported, write_folder

from pipelines import ingest
from schemas.errors import UsageError
from transforms.corpora.fields import FIELDS, choose_columns, look_at, schema_of


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
    stage = ingest.import_into(ingest.Config(corpus=str(tmp_path / "rows.parquet")), str(tmp_path / "out"))
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


def test_a_limit_also_bounds_what_is_looked_at_for_types(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": "a?", "response": "b", "n": n} for n in (1, 2, "three")]
    path.write_text("\n".join(map(json.dumps, rows)))
    for limit, expected in ((2, pa.int64()), (None, pa.string())):
        look = look_at(str(path), "responses", {}, limit)
        assert schema_of("responses", [look]).field("n").type == expected
    found, rejects = imported(path, tmp_path / "out", limit=2)
    assert ([row["n"] for row in found], rejects) == ([1, 2], [])


@pytest.mark.parametrize("value", [{}, [{}], {"a": [{}]}])
def test_empty_objects_become_json(tmp_path, value):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "a?", "response": "b", "note": value}))
    assert imported(tmp_path / "rows.jsonl", tmp_path / "out")[0][0]["note"] == json.dumps(value)


def test_other_columns_may_be_called_as_a_reject_calls_its_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"question": "a?", "response": "b", "error": "E1", "line": "first", "raw": 7, "source": [1]}
    path.write_text(json.dumps(row) + '\n{"question": "cut')
    stage = ingest.import_into(ingest.Config(corpus=str(path)), str(tmp_path / "out"))
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
    stage = ingest.import_into(ingest.Config(corpus=str(path)), str(tmp_path / "out"))
    found = stage.table("responses").to_arrow().select(others.column_names)
    assert found.equals(pq.read_table(path, columns=others.column_names))


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
        rows, _ = imported(write_folder(tmp_path / name, **files), tmp_path / f"out-{name}")
        assert [(row["question"], row["score"], row["tag"]) for row in rows] == [("a?", 1.0, "t"), ("b?", 0.5, None)]


@pytest.mark.parametrize(("other", "type"), [(0.5, "double"), ("many", "string"), ([1], "list<element: int64>")])
def test_parquet_files_that_disagree_on_a_type_are_both_named(tmp_path, other, type):
    rows = [{"question": "q?", "response": "r", "score": score} for score in (1, 1, other)]
    tables = {name: pa.Table.from_pylist([row]) for name, row in zip("abc", rows, strict=True)}
    with pytest.raises(UsageError, match=f"/a.parquet: column 'score' is int64, in .*/c.parquet {type};"):
        imported(write_folder(tmp_path / "rows", **tables), tmp_path / "out")
