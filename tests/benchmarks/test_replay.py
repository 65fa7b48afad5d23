"""The replay benchmark: who is preferred to whom, and what a guard makes of published corrections."""

import pytest

from benchmarks import replay
from pipelines.commands import align
from schemas.errors import UsageError
from schemas.settings import Layer, resolve
from transforms.engines.engine import Request, Sampling
from transforms.training_data.aligner_format import aligner_prompt

ROWS = [
    {"question": "grows?", "response": "one", "published": "one two three"},
    {"question": "shrinks?", "response": "one two [DONE]", "published": "two"},
    {"question": "stays?", "response": "as it is", "published": "as it is"},
]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    replay.write_lines(path, ROWS)
    monkeypatch.setenv(replay.ROWS_FILE, str(path))
    return path


def annotation(question, baseline, output, preference):
    return {"instruction": question, "output_1": baseline, "output_2": output, "preference": preference}


def test_the_engine_gives_back_what_was_published_for_the_row(rows):
    for row in ROWS:
        request = Request(aligner_prompt(row["question"], row["response"]), Sampling())
        assert replay.published(request) == f" {row['published']} [DONE]"
    unknown = replay.published(Request(aligner_prompt("grows?", "another response"), Sampling()))
    assert unknown.error == "not_published: there is no correction for this prompt"


def test_rows_that_one_prompt_stands_for_are_refused(tmp_path):
    path = tmp_path / "twice.jsonl"
    replay.write_lines(path, [ROWS[0], {**ROWS[0], "published": "other"}])
    with pytest.raises(UsageError, match="2 rows give 1 prompts"):
        replay.completions(str(path))


def test_the_judge_prefers_output_2_above_one_and_a_half():
    annotations = [[annotation("q", "base", "weak", 1.2)], [annotation("q", "base", "strong", 1.8)]]
    assert replay.baseline_pairs(annotations) == [
        {"question": "q", "response": "weak", "correction": "base"},
        {"question": "q", "response": "base", "correction": "strong"},
    ]


def test_two_systems_are_ordered_by_their_distance_to_the_baseline_where_that_is_clear():
    annotations = [[annotation("q", "base", name, p)] for name, p in (("a", 1.0), ("b", 1.6), ("c", 1.65))]
    assert replay.systems_pairs(annotations) == [
        {"question": "q", "response": "a", "correction": "b"},
        {"question": "q", "response": "a", "correction": "c"},
    ]
    with pytest.raises(UsageError, match="different orders"):
        replay.systems_pairs([[annotation("q", "", "", 1.0)], [annotation("r", "", "", 1.0)]])


def test_length_alone_and_the_pairs_it_gets_wrong():
    pairs = [replay.pair("q", "a b", "a b c"), replay.pair("q", "a", "a b"), replay.pair("q", "a b c d", "a")]
    assert replay.length_auc(pairs) == pytest.approx(4 / 9)
    assert replay.shorter_chosen(pairs) == pairs[2:]


@pytest.mark.parametrize(
    ("guard", "cells"),
    [
        ("any gain", ["1", "1", "0", "1", "0.100", "1 → 3", "3 → 1", "3"]),
        ("gain of 0.05", ["1", "1", "0", "1", "0.100", "1 → 3", "3 → 1", "3"]),
        ("none", ["2", "0", "0", "1", "-0.005", "2 → 2", "– → –", "2"]),
    ],
)
def test_what_is_kept_and_refused_under_each_guard(rows, tmp_path, guard, cells):
    squad = replay.write_squad(tmp_path, "scripted:tests.scripted_models:lengths", guard)
    given = {"corpus": str(rows), "squad": str(squad), "every_row": True, "output": str(tmp_path / "run")}
    frame = replay.read_replay(align.align_corpus(resolve(align.Config, [Layer("test", given)]).config)[-1].directory)
    assert frame["decision"].to_list()[2] == "unchanged"
    assert frame["gain"].to_list() == pytest.approx([0.10, -0.11, 0.0])
    assert replay.guard_cells([frame]) == cells
    assert replay.length_correlation(frame) == pytest.approx(1)


def test_cells_over_seeds():
    assert replay.spread([1.0, 3.0, None]) == "2.000 ± 1.414"
    assert replay.spread([None]) == "–"
