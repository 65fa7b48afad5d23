"""Topics: which the prompts show, what is read from a completion, and how the types are kept even."""

import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.criteria.pack import load_pack, pack_names
from schemas.tables import TOPICS
from transforms.prompts import render
from transforms.synthesis.topics import (
    TOPIC_CANDIDATES,
    balance_topics,
    draw,
    parse_topics,
    seed_topics,
    topic_fault,
    topic_prompts,
)
from transforms.tables.identity import content_id

COMPLETED = pa.schema(
    {
        "id": pa.string(),
        "question_type": pa.string(),
        "round": pa.int32(),
        "completion": pa.string(),
        "finish_reason": pa.string(),
        "error": pa.string(),
    }
)


def topics(*pairs: tuple[str, str], round: int = 0) -> pa.Table:
    rows = [
        {"id": content_id(kind, topic), "question_type": kind, "topic": topic, "origin": "seed", "round": round}
        for kind, topic in pairs
    ]
    return pa.Table.from_pylist(rows, TOPICS)


def completed(completion: str | None, finish_reason: str = "stop", error: str | None = None) -> pa.RecordBatch:
    row = {"id": "p", "question_type": "tools", "round": 3, "completion": completion}
    return pa.RecordBatch.from_pylist([row | {"finish_reason": finish_reason, "error": error}], COMPLETED)


def parsed(completion: str | None, finish_reason: str = "stop", english: bool = True) -> list[tuple]:
    rows = parse_topics(completed(completion, finish_reason), english=english).to_pylist()
    return [(row["topic"], row["drop_reason"]) for row in rows]


def test_seed_topics_keep_every_rule():
    for name in pack_names():
        pack = load_pack(name)
        rows = seed_topics(pack).to_pylist()
        assert [(row["question_type"], row["topic"]) for row in rows] == [
            (seed.question_type, seed.topic) for seed in pack.seeds
        ]
        assert {(row["origin"], row["round"]) for row in rows} == {("seed", 0)}
        assert [topic_fault(row["topic"], english=True) for row in rows] == [None] * len(rows)


def test_few_topics_are_shown_one_by_one():
    prompts = topic_prompts(topics(("tools", "Fork"), ("tools", "Axe"), ("animals", "Bee")), round=2, seed=7, count=8)
    assert prompts.to_pylist() == [
        {
            "id": content_id("2", kind, topic),
            "question_type": kind,
            "topics": [topic],
            "round": 2,
            "prompt": render("topics", question_type=kind, topics=[topic], count=8),
        }
        for kind, topic in [("animals", "Bee"), ("tools", "Axe"), ("tools", "Fork")]
    ]


def test_ten_topics_are_shown_five_at_a_time_in_as_many_prompts():
    names = [f"Topic {letter}" for letter in "abcdefghij"]
    ten = topics(*(("tools", name) for name in names))
    shown = topic_prompts(ten, round=1, seed=7).column("topics").to_pylist()
    assert len(shown) == 10
    assert all(len(set(five)) == 5 and set(five) <= set(names) for five in shown)
    assert len({tuple(five) for five in shown}) == 10
    nine = topic_prompts(ten.slice(0, 9), round=1, seed=7).column("topics").to_pylist()
    assert {len(one) for one in nine} == {1}


def test_prompts_depend_on_seed_round_and_content_not_on_order():
    ten = topics(*(("tools", f"Topic {letter}") for letter in "abcdefghij"))
    first = topic_prompts(ten, round=1, seed=7)
    assert topic_prompts(ten.take(list(range(9, -1, -1))), round=1, seed=7) == first
    assert topic_prompts(ten, round=1, seed=8).column("topics") != first.column("topics")
    assert topic_prompts(ten, round=2, seed=7).column("topics") != first.column("topics")
    assert set(topic_prompts(ten, round=2, seed=7).column("id").to_pylist()).isdisjoint(first.column("id").to_pylist())


def test_no_topics_no_prompts():
    prompts = topic_prompts(topics(), round=0, seed=0)
    assert prompts.num_rows == 0
    assert prompts.schema.names == ["id", "question_type", "topics", "round", "prompt"]


def test_a_completion_goes_on_with_the_list():
    batch = parse_topics(completed(" Bread knife\n3. Saw\n4) Rake\nHoe"), english=True)
    assert batch.schema == TOPIC_CANDIDATES
    assert batch.to_pylist() == [
        {
            "id": content_id("tools", topic),
            "question_type": "tools",
            "topic": topic,
            "origin": "generated",
            "round": 3,
            "drop_reason": None,
            "error": None,
        }
        for topic in ("Bread knife", "Saw", "Rake", "Hoe")
    ]


@pytest.mark.parametrize(
    ("topic", "english", "other"),
    [
        ("", "empty", "empty"),
        ("One two three four", "too_many_words", "too_many_words"),
        ("One two three", None, None),
        ("saw", "not_capitalised", "not_capitalised"),
        ("3 saws", "not_capitalised", "not_capitalised"),
        ("Äxte", "not_capitalised", None),
        ("工具", "not_capitalised", None),
        ("Saw.", "trailing_punctuation", "trailing_punctuation"),
        ("Saw//axe", "forbidden_text", "forbidden_text"),
        ("Saw \\u00e9", "forbidden_text", "forbidden_text"),
        ("Saw@home", "forbidden_text", "forbidden_text"),
        ("Hand_saw", "forbidden_text", "forbidden_text"),
        ("S" * 49, None, None),
        ("S" * 50, "too_long", "too_long"),
    ],
)
def test_each_rule_for_topics(topic, english, other):
    assert topic_fault(topic, english=True) == english
    assert topic_fault(topic, english=False) == other


def test_lines_without_text_do_not_count_and_a_bare_number_is_empty():
    assert parsed("Saw\r\n\r\n3.\r\n") == [("Saw", None), ("", "empty")]


@pytest.mark.parametrize("completion", [None, "", " \n \n"])
def test_nothing_generated_is_one_dropped_row(completion):
    assert parsed(completion) == [(None, "empty_completion")]


def test_the_last_line_of_a_truncated_completion_is_dropped():
    assert parsed("Saw\n3. Ham", "length") == [("Saw", None), ("Ham", "truncated")]
    assert parsed("Saw\n3. Hammer\n", "length") == [("Saw", None), ("Hammer", None)]
    assert parsed("Saw\n3. Ham", "stop") == [("Saw", None), ("Ham", None)]


def test_lines_after_the_twentieth_are_one_dropped_row():
    names = [f"Saw {chr(65 + number)}" for number in range(23)]
    assert parsed("\n".join(names)) == [
        *((name, None) for name in names[:20]),
        ("Saw U\nSaw V\nSaw W", "beyond_line_limit"),
    ]


def test_a_failed_prompt_is_one_row_with_its_error():
    rows = parse_topics(completed(None, "error", "server_error"), english=True).to_pylist()
    assert [(row["id"], row["topic"], row["error"], row["drop_reason"]) for row in rows] == [
        ("p", None, "server_error", None)
    ]


def test_types_are_cut_to_the_poorest_after_repeats_are_dropped():
    table = pa.concat_tables(
        [
            topics(("tools", "Saw"), ("animals", "Bee"), ("animals", "Ant")),
            topics(("tools", "saw"), ("tools", "Axe"), ("animals", "BEE"), ("animals", "Cow"), round=1),
        ]
    )
    rows = balance_topics(table).to_pylist()
    assert [(row["topic"], row["drop_reason"]) for row in rows] == [
        ("Saw", None),
        ("Bee", None),
        ("Ant", None),
        ("saw", "repeated_topic"),
        ("Axe", None),
        ("BEE", "repeated_topic"),
        ("Cow", "surplus_topic"),
    ]


def test_what_is_dropped_already_counts_for_nothing():
    table = parse_topics(completed("Saw\n3. axe"), english=True)
    table = pa.concat_tables([pa.Table.from_batches([table]), balance_topics(topics(("animals", "Bee")))])
    assert balance_topics(table).column("drop_reason").to_pylist() == [None, "not_capitalised", None]


def test_at_most_bounds_every_type():
    table = topics(("tools", "Saw"), ("tools", "Axe"), ("animals", "Bee"), ("animals", "Ant"))
    kept = [row for row in balance_topics(table, at_most=1).to_pylist() if row["drop_reason"] is None]
    assert sorted(row["question_type"] for row in kept) == ["animals", "tools"]
    assert kept == [
        row | {"drop_reason": None, "error": None}
        for kind in ("tools", "animals")
        for row in [min((r for r in table.to_pylist() if r["question_type"] == kind), key=lambda r: r["id"])]
    ]


def test_the_order_of_the_rows_decides_nothing():
    table = topics(*(("tools", f"Saw {letter}") for letter in "abcdef"), ("animals", "Bee"), ("animals", "Ant"))
    kept = {row["id"] for row in balance_topics(table).to_pylist() if row["drop_reason"] is None}
    turned = balance_topics(table.take(list(range(7, -1, -1)))).to_pylist()
    assert {row["id"] for row in turned if row["drop_reason"] is None} == kept
    assert len(kept) == 4


@given(st.integers(0, 8), st.integers(0, 8), st.text(max_size=3))
def test_draws_are_different_numbers_below_the_size(count, size, row_id):
    drawn = draw(count, size, row_id, "step", 0)
    assert len(drawn) == len(set(drawn)) == min(count, size)
    assert all(0 <= number < size for number in drawn)


lines = st.sampled_from(["Saw", "\n", "\r\n", "2. ", "axe", "é", "\x00", "One two three four", "\n3. Rake"])
rows = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b"]),
        "question_type": st.sampled_from(["tools", "animals"]),
        "round": st.integers(0, 3),
        "completion": st.none() | st.lists(lines, max_size=30).map("".join),
        "finish_reason": st.sampled_from(["stop", "length"]),
        "error": st.sampled_from([None, None, "server_error"]),
    }
)


@settings(deadline=None)
@given(st.lists(rows, max_size=5), st.integers(0, 5), st.booleans())
def test_where_a_batch_is_cut_changes_no_topic(rows, cut, english):
    batch = pa.RecordBatch.from_pylist(rows, COMPLETED)
    assert_cuts_never_matter(lambda part: parse_topics(part, english=english), batch, cut)


def test_a_megabyte_of_lines_is_a_few_rows():
    assert parse_topics(completed("Saw\n" * 250_000), english=True).num_rows == 21
    assert parsed("9" * 1_000_000) == [("9" * 1_000_000, "not_capitalised")]
