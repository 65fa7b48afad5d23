"""Questions: how hints are dealt out, which lines count, what is filtered, and what has been asked before."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.criteria.pack import load_pack, pack_names
from schemas.tables import QUESTIONS, TOPICS
from transforms.prompts import render
from transforms.synthesis.questions import (
    QUESTION_CANDIDATES,
    drop_repeated_questions,
    filter_questions,
    normal_form,
    parse_questions,
    question_prompts,
    seed_questions,
)
from transforms.synthesis.topics import seed_topics
from transforms.tables.identity import content_id

PACK = load_pack("ethical")
SEEDS = seed_questions(PACK)
COMPLETED = pa.schema(
    {
        "id": pa.string(),
        "criterion": pa.string(),
        "round": pa.int32(),
        "topics": pa.list_(pa.string()),
        "question_types": pa.list_(pa.string()),
        "examples": pa.int32(),
        "completion": pa.string(),
        "finish_reason": pa.string(),
        "error": pa.string(),
    }
)


def topics(count: int) -> pa.Table:
    rows = [{"question_type": f"type {number % 3}", "topic": f"Topic {number}"} for number in range(count)]
    return pa.Table.from_pylist(rows, TOPICS)


def completed(completion: str | None, finish_reason: str = "stop", error: str | None = None) -> pa.RecordBatch:
    """A prompt with one hint answered and two open: `2. Bees | animals` and `3. Rain | weather`."""
    row = {
        "id": "p",
        "criterion": "ethical",
        "round": 1,
        "topics": ["Forks", "Bees", "Rain"],
        "question_types": ["tools", "animals", "weather"],
        "examples": 1,
        "completion": completion,
    }
    return pa.RecordBatch.from_pylist([row | {"finish_reason": finish_reason, "error": error}], COMPLETED)


def parsed(completion: str | None, finish_reason: str = "stop", **options: bool) -> list[tuple]:
    rows = parse_questions(completed(completion, finish_reason), **options).to_pylist()
    return [(row["topic"], row["question"], row["drop_reason"]) for row in rows]


def candidates(*rows: tuple[str, str, str]) -> pa.Table:
    """Rows (id, topic, question) of the type `tools`."""
    rows = [
        {"id": row_id, "topic": topic, "question_type": "tools", "question": question}
        for row_id, topic, question in rows
    ]
    return pa.Table.from_pylist(rows, QUESTION_CANDIDATES)


def reason(question: str | None, english: bool = True, pack=PACK) -> str | None:
    batch = pa.RecordBatch.from_pylist([{"question": question}], QUESTION_CANDIDATES)
    return filter_questions(batch, pack, english=english).to_pylist()[0]["drop_reason"]


@pytest.mark.parametrize("name", pack_names())
def test_seed_questions_pass_every_filter_and_repeat_nothing(name):
    pack = load_pack(name)
    seeds = seed_questions(pack)
    assert seeds.schema == QUESTIONS
    assert seeds.to_pylist()[0] == {
        "id": content_id(name, pack.seeds[0].question_type, pack.seeds[0].topic, pack.seeds[0].question),
        "question": pack.seeds[0].question,
        "question_type": pack.seeds[0].question_type,
        "topic": pack.seeds[0].topic,
        "criterion": name,
        "origin": "seed",
        "round": 0,
    }
    batch = filter_questions(seeds.combine_chunks().to_batches()[0], pack, english=True)
    assert batch.column("drop_reason").to_pylist() == [None] * 20
    rows = pa.Table.from_pylist(seeds.to_pylist(), QUESTION_CANDIDATES)
    assert drop_repeated_questions(rows, seeds.slice(0, 0)).column("drop_reason").null_count == 20


def test_every_open_pair_gets_one_hint():
    prompts = question_prompts(topics(32), SEEDS, PACK, round=1, seed=3).to_pylist()
    assert [(row["examples"], len(row["topics"])) for row in prompts] == [(5, 20), (5, 20), (5, 7)]
    asked = [pair for row in prompts for pair in list(zip(row["topics"], row["question_types"], strict=True))[5:]]
    assert sorted(asked) == sorted((row["topic"], row["question_type"]) for row in topics(32).to_pylist())
    assert asked != sorted(asked), "they are shuffled"


def test_a_pair_that_has_a_question_is_not_asked_again():
    assert question_prompts(seed_topics(PACK), SEEDS, PACK, round=1, seed=3).num_rows == 0
    prompts = question_prompts(seed_topics(PACK), SEEDS.slice(1), PACK, round=1, seed=3).to_pylist()
    assert [row["topics"][5:] for row in prompts] == [[PACK.seeds[0].topic]]


def test_the_prompt_shows_kept_questions_under_their_own_hints():
    row = question_prompts(topics(2), SEEDS, PACK, round=1, seed=3, examples=2, hints=15).to_pylist()[0]
    known = {(seed.topic, seed.question_type): seed.question for seed in PACK.seeds}
    pairs = list(zip(row["topics"], row["question_types"], strict=True))
    assert row["prompt"] == render(
        "questions",
        failure=PACK.failure,
        hints=[f"{topic} | {question_type}" for topic, question_type in pairs],
        examples=[known[pairs[0]], known[pairs[1]]],
    )
    assert (row["criterion"], row["round"], row["examples"]) == ("ethical", 1, 2)


def test_prompts_depend_on_seed_round_and_content_not_on_order():
    first = question_prompts(topics(32), SEEDS, PACK, round=1, seed=3)
    backwards = [table.take(list(range(table.num_rows - 1, -1, -1))) for table in (topics(32), SEEDS)]
    assert question_prompts(*backwards, PACK, round=1, seed=3) == first
    for change in ({"round": 2, "seed": 3}, {"round": 1, "seed": 4}):
        assert question_prompts(topics(32), SEEDS, PACK, **change).column("prompt") != first.column("prompt")


def test_with_nothing_kept_no_example_is_shown():
    row = question_prompts(topics(1), SEEDS.slice(0, 0), PACK, round=1, seed=3).to_pylist()[0]
    assert (row["examples"], row["topics"]) == (0, ["Topic 0"])
    assert row["prompt"].endswith("\n1.")


def test_numbered_lines_under_their_hints_are_questions():
    batch = parse_questions(completed(" Bees | animals: Do bees sleep?\n3. Rain | weather: Why does it rain?"))
    assert batch.schema == QUESTION_CANDIDATES
    assert batch.to_pylist() == [
        {
            "id": content_id("ethical", question_type, topic, question),
            "question": question,
            "question_type": question_type,
            "topic": topic,
            "criterion": "ethical",
            "origin": "generated",
            "round": 1,
            "drop_reason": None,
            "error": None,
        }
        for topic, question_type, question in [
            ("Bees", "animals", "Do bees sleep?"),
            ("Rain", "weather", "Why does it rain?"),
        ]
    ]


def test_a_repeated_first_number_and_windows_line_ends_are_read():
    assert parsed("2. Bees | animals: Do bees sleep?\r\n\r\n3. Rain | weather: Why?\r\n") == [
        ("Bees", "Do bees sleep?", None),
        ("Rain", "Why?", None),
    ]


def test_a_completion_may_skip_a_hint():
    assert parsed("3. Rain | weather: Why?") == [("Rain", "Why?", None)]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("Rain | weather: Why?", (None, "Rain | weather: Why?", "malformed_line")),
        ("3. Why does it rain?", (None, "3. Why does it rain?", "wrong_hint")),
        ("3. rain | weather: Why?", (None, "3. rain | weather: Why?", "wrong_hint")),
        ("3. Rain | weather Why?", (None, "3. Rain | weather Why?", "wrong_hint")),
        ("3. Bees | animals: Why?", (None, "3. Bees | animals: Why?", "wrong_hint")),
        ("4. Rain | weather: Why?", (None, "4. Rain | weather: Why?", "unasked_hint")),
        ("1. Forks | tools: Why?", (None, "1. Forks | tools: Why?", "unasked_hint")),
        ("0. Rain | weather: Why?", (None, "0. Rain | weather: Why?", "unasked_hint")),
        ("2. Bees | animals: Again?", ("Bees", "Again?", "repeated_hint")),
        ("3. Rain | weather: ", ("Rain", "", "empty_question")),
        ("9" * 5000 + ". x", (None, "9" * 5000 + ". x", "malformed_line")),
    ],
)
def test_a_line_that_does_not_count_says_why(line, row):
    assert parsed(f"Bees | animals: Do bees sleep?\n{line}")[1:] == [row]


def test_the_last_line_is_dropped_where_the_completion_broke_off():
    text = "Bees | animals: Do bees sleep?\n3. Rain | weather: Why do"
    bees, rain = ("Bees", "Do bees sleep?"), ("Rain", "Why do")
    assert parsed(text, "length") == [(*bees, None), (*rain, "truncated")]
    assert parsed(f"{text}\n", "length") == [(*bees, None), (*rain, None)]
    assert parsed(text, "stop") == [(*bees, None), (*rain, None)]
    assert parsed(f"{text}\n", "stop", always_drop_last=True) == [(*bees, None), (*rain, "truncated")]


def test_what_follows_twice_the_lines_that_were_asked_for_is_one_row():
    rows = parsed("Bees | animals: Do bees sleep?\na\nb\nc\nd\ne")
    assert [row[2] for row in rows] == [None, *["malformed_line"] * 3, "beyond_line_limit"]
    assert rows[-1][1] == "d\ne"


@pytest.mark.parametrize("completion", [None, "", " \n"])
def test_nothing_generated_is_one_dropped_row(completion):
    assert parsed(completion) == [(None, None, "empty_completion")]


def test_a_failed_prompt_is_one_row_with_its_error():
    rows = parse_questions(completed(None, "error", "server_error")).to_pylist()
    assert [(row["id"], row["error"], row["drop_reason"]) for row in rows] == [("p", "server_error", None)]


@pytest.mark.parametrize(
    ("question", "english", "other"),
    [
        ("Why does it rain?", None, None),
        ("Why so  wet?", "too_few_words", "too_few_words"),
        (" Why so wet ", "too_few_words", "too_few_words"),
        ("why " * 150, None, None),
        ("why " * 150 + "not", "too_many_words", "too_many_words"),
        ('"Why does it rain?"', "leading_punctuation", "leading_punctuation"),
        ("- Why does it rain?", "leading_punctuation", "leading_punctuation"),
        ("¿Por qué llueve hoy?", "non_ascii_start", None),
        ("Por qué llueve hoy aquí?", None, None),
        ("Draw a cat for me", "rejected_word", None),
        ("Which files are mine here?", "rejected_word", None),
        ("Where do I go to swim?", "rejected_word", None),
        ("What does a profile say here?", None, None),
        ("Write a program that adds numbers", "asks_for_program", None),
        ("Write a programme for the feast", None, None),
        (None, None, None),
    ],
)
def test_each_filter(question, english, other):
    assert reason(question, english=True) == english
    assert reason(question, english=False) == other


def test_a_banned_word_is_found_whole_in_any_case():
    pack = replace(PACK, banned_words=("snow", "c++"))
    assert reason("Why does SNOW fall slowly?", pack=pack) == "banned_word"
    assert reason("Is it good in C++ or not?", pack=pack) == "banned_word"
    assert reason("Why does snowfall come late?", pack=pack) is None


def test_a_pair_or_a_text_that_was_kept_before_is_a_repeat():
    kept = candidates(("k", "Forks", "What is a fork?")).select(QUESTIONS.names)
    rows = candidates(
        ("b", "Forks", "Why a fork?"),
        ("c", "Spoons", "what is  a fork"),
        ("e", "Knives", "Why a knife?"),
        ("d", "Knives", "Which knife is best?"),
        ("f", "Bowls", "WHY a: fork?"),
        ("g", "Cups", "which knife is best!"),
    )
    assert drop_repeated_questions(rows, kept).column("drop_reason").to_pylist() == [
        "repeated_hint",
        "repeated_question",
        "repeated_hint",
        None,
        None,
        "repeated_question",
    ]


def test_what_is_dropped_already_is_no_earlier_question():
    rows = candidates(("a", "Forks", "Why?"), ("b", "Forks", "Why a fork?")).to_pylist()
    rows[0]["drop_reason"] = "too_few_words"
    marked = drop_repeated_questions(pa.Table.from_pylist(rows, QUESTION_CANDIDATES), SEEDS)
    assert marked.column("drop_reason").to_pylist() == ["too_few_words", None]


def test_the_order_of_the_rows_decides_nothing():
    rows = candidates(*((letter, f"Topic {letter}", f"Is it {number % 3}?") for number, letter in enumerate("abcdef")))
    none = SEEDS.slice(0, 0)
    ids = [
        marked.filter(pc.is_null(marked.column("drop_reason"))).column("id").to_pylist()
        for marked in (drop_repeated_questions(table, none) for table in (rows, rows.take([5, 4, 3, 2, 1, 0])))
    ]
    assert ids == [["a", "b", "c"], ["c", "b", "a"]]


def test_questions_of_signs_alone_differ_by_their_signs():
    assert normal_form("???") != normal_form("!!!")
    assert normal_form("Straße, JA!") == normal_form("strasse ja")


lines = st.sampled_from(
    ["Bees | animals: Do bees ever sleep?", "\n", "\r\n", "3. Rain | weather: Why?", "3. ", "draw", "é", "\x00", '"']
)
rows = st.tuples(
    st.none() | st.lists(lines, max_size=12).map("".join),
    st.sampled_from(["stop", "length"]),
    st.sampled_from([None, None, "server_error"]),
).map(lambda row: completed(*row).to_pylist()[0])


@settings(deadline=None)
@given(st.lists(rows, max_size=5), st.integers(0, 5), st.booleans())
def test_where_a_batch_is_cut_changes_no_question(rows, cut, flag):
    batch = pa.RecordBatch.from_pylist(rows, COMPLETED)
    assert_cuts_never_matter(lambda part: parse_questions(part, always_drop_last=flag), batch, cut)
    assert_cuts_never_matter(lambda part: filter_questions(parse_questions(part), PACK, english=flag), batch, cut)


def test_a_megabyte_of_text_is_read_and_filtered():
    assert parse_questions(completed("x\n" * 500_000)).num_rows == 5
    assert reason("word " * 200_000) == "too_many_words"
    assert reason("x" * 1_000_000) == "too_few_words"
