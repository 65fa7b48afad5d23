"""Leakage: exact, near and overlapping matches with held-out questions, and which one is named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UsageError
from schemas.tables import RESPONSES
from transforms.curation.leakage import drop_leaked, index_held_out, read_held_out
from transforms.tables.marks import drop_where
from transforms.tables.write import write_tables
from transforms.texts.near_duplicates import Similarity

HELD_OUT = {
    "short": "Why?",
    "long": "how do I ask my old neighbour politely to keep his four dogs quiet at night",
    "twin": "how do I ask my old neighbour politely to keep his five dogs quiet at night",
}
INDEX = index_held_out(HELD_OUT, Similarity(words=2, jaccard=0.7), 8)


def marks(*questions: str | None, index=INDEX) -> list[tuple[str | None, str | None]]:
    batch = drop_leaked(pa.RecordBatch.from_pydict({"question": pa.array(questions, pa.string())}), index)
    return [(row["drop_reason"], row["leaked_from"]) for row in batch.to_pylist()]


def test_matches_are_named():
    assert marks(
        "WHY ?",
        "Why not?",
        HELD_OUT["twin"].upper(),
        HELD_OUT["long"] + " please",
        "Well, my old neighbour politely to keep his four dogs, what of it and what else is there to say of them",
        "how do I ask my old neighbour",
        None,
    ) == [
        ("leaked_near_duplicate", "short"),
        (None, None),
        ("leaked_near_duplicate", "twin"),
        ("leaked_near_duplicate", "long"),
        ("leaked_overlap", "long"),
        (None, None),
        (None, None),
    ]


def test_an_overlap_with_two_questions_names_the_first():
    assert marks("he said to me how do I ask my old neighbour politely to keep, and so on") == [
        ("leaked_overlap", "long")
    ]


def test_nothing_held_out_drops_nothing():
    assert marks("Why?", index=index_held_out({}, Similarity(), 13)) == [(None, None)]


def test_dropped_rows_are_left_alone():
    batch = pa.RecordBatch.from_pydict({"question": ["Why?", "Why?"]})
    batch = drop_leaked(drop_where(batch, pa.array([True, False]), "before"), INDEX)
    assert batch.select(["drop_reason", "leaked_from"]).to_pylist() == [
        {"drop_reason": "before", "leaked_from": None},
        {"drop_reason": "leaked_near_duplicate", "leaked_from": "short"},
    ]


WORDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8).map(" ".join)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=8), st.lists(WORDS, min_size=1, max_size=8), st.sampled_from([0.3, 0.6, 0.9, 1.0]))
def test_near_matches_are_those_of_brute_force(rows, held_out, threshold):
    def pairs(text):
        words = text.split()
        return {tuple(words[i : i + 2]) for i in range(max(len(words) - 1, 1))}

    index = index_held_out(
        {f"{i:02d}": text for i, text in enumerate(held_out)}, Similarity(words=2, jaccard=threshold), 9
    )
    expected = []
    for row in rows:
        scores = [len(pairs(row) & pairs(text)) / len(pairs(row) | pairs(text)) for text in held_out]
        best = max(scores)
        expected.append(f"{scores.index(best):02d}" if best >= threshold else None)
    assert [name for _, name in marks(*rows, index=index)] == expected


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from(list(HELD_OUT.values())), st.text()), max_size=8), st.integers(0, 8)
)
def test_cuts_never_matter(questions, cut):
    batch = pa.RecordBatch.from_pydict({"question": pa.array(questions, pa.string())})
    assert_cuts_never_matter(lambda part: drop_leaked(part, INDEX), batch, cut)


def test_held_out_files_of_every_kind(tmp_path):
    (tmp_path / "many" / "deep").mkdir(parents=True)
    (tmp_path / "many" / "a.csv").write_text('question\n"Two\nlines?"\nOne?\n')
    lines = [json.dumps({"prompt": "Three?"}), "{broken", json.dumps({"prompt": None})]
    (tmp_path / "many" / "deep" / "b.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"ask": ["Four?", "Four?"]}), tmp_path / "c.parquet")
    stage = tmp_path / "stage"
    rows = pa.Table.from_pylist([{"id": "q1", "question": "Five?", "response": "No."}], RESPONSES)
    write_tables(str(stage), {"responses": rows}, {"stage": "respond"}, 10)

    assert read_held_out((str(tmp_path / "many"),)) == {
        "a.csv:1": "Two\nlines?",
        "a.csv:2": "One?",
        "deep/b.jsonl:1": "Three?",
    }
    assert read_held_out((str(tmp_path / "c.parquet"),), "ask") == {"c.parquet:1": "Four?", "c.parquet:2": "Four?"}
    assert read_held_out((str(stage), str(tmp_path / "many" / "a.csv"))).keys() == {"q1", "a.csv:1", "a.csv:2"}
    assert read_held_out(()) == {}
    (tmp_path / "a.csv").write_text("ID,Question\n1,Six?\n")  # of the same name as another
    every = [str(tmp_path / name) for name in ("a.csv", "many", "c.parquet", "stage")]
    found = sorted(read_held_out(tuple(every), "ask").values())
    assert found == ["Five?", "Four?", "Four?", "One?", "Six?", "Three?", "Two\nlines?"]
    with pytest.raises(UsageError, match=r"c\.parquet: no column for the question.*--heldout-column"):
        read_held_out((str(tmp_path / "c.parquet"),))
    with pytest.raises(UsageError, match="heldout_column: none of .*many has a column 'asked'"):
        read_held_out((str(tmp_path / "many"),), "asked")
    with pytest.raises(UsageError, match="absent"):
        read_held_out((str(tmp_path / "absent"),))
