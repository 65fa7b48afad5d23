from dataclasses import replace

from pipelines.report.corpus import ShownStep, sample, show_text
from pipelines.report.views import view

ROW = {
    "id": "a",
    "question": "Why?",
    "response": "Nobody knows.",
    "aligned": "Ask him.",
    "decision": "rewritten",
    "scores_before": {"kind": 0.2, "true": 0.4},
    "scores_after": {"kind": 0.7, "true": 0.4},
}
GIVEN = ShownStep(0, None, show_text("Nobody knows."), {"kind": 0.2, "true": 0.4}, {}, "as_given", None)
HARMED = ShownStep(
    1, "kind", show_text("Who cares?"), GIVEN.scores, {"kind": 0.3, "true": 0.1}, "refused", "harmed:true"
)
BETTER = ShownStep(
    2, "kind", show_text("Ask him."), {"kind": 0.7, "true": 0.4}, {"kind": 0.7, "true": 0.4}, "rewritten", None
)
LOWER = ShownStep(
    3, "true", show_text("Ask her."), BETTER.scores, {"kind": 0.7, "true": 0.3}, "refused", "scored_lower"
)
IDLE = ShownStep(2, None, None, GIVEN.scores, {}, "not_asked", None)


def seen(row, *steps, error=None):
    return view(replace(sample(row), steps=list(steps)), error)


def told(comparison):
    before, after = comparison.before, comparison.after
    return before.title, before.text.text, after.title, after.text and after.text.text


def test_several_turns_are_compared_each_with_the_text_as_it_stood():
    found = seen(ROW, GIVEN, HARMED, BETTER, LOWER)
    assert [told(comparison) for comparison in found.comparisons] == [
        ("Response", "Nobody knows.", "Aligned", "Ask him."),
        ("Response", "Nobody knows.", "Refused rewrite", "Who cares?"),
        ("Response", "Nobody knows.", "Rewrite", "Ask him."),
        ("Text so far", "Ask him.", "Refused rewrite", "Ask her."),
    ]
    assert [comparison.step for comparison in found.comparisons] == [None, HARMED, BETTER, LOWER]
    last = found.comparisons[-1]
    assert last.scores == [("kind", 0.7, 0.7, "0"), ("true", 0.4, 0.3, "−0.100")]
    assert (last.before.score_title, last.after.score_title) == ("kept", "proposed")


def test_a_refused_rewrite_is_shown_beside_what_was_kept_with_its_scores():
    row = {**ROW, "decision": "refused", "aligned": "Nobody knows.", "scores_after": ROW["scores_before"]}
    found = seen(row, GIVEN, HARMED, IDLE)
    assert [told(comparison) for comparison in found.comparisons] == [
        ("Response", "Nobody knows.", "Refused rewrite", "Who cares?")
    ]
    assert found.comparisons[0].scores == [("kind", 0.2, 0.3, "+0.100"), ("true", 0.4, 0.1, "−0.300")]
    assert found.reason == "harmed:true"


def test_where_all_turns_were_refused_they_say_all():
    row = {**ROW, "decision": "refused", "aligned": "Nobody knows.", "scores_after": ROW["scores_before"]}
    second = replace(LOWER, step=2, scores=GIVEN.scores)
    assert [comparison.step for comparison in seen(row, GIVEN, HARMED, second).comparisons] == [HARMED, second]


def test_a_single_rewrite_is_the_aligned_text_and_names_its_aligner():
    found = seen(ROW, GIVEN, BETTER)
    assert [told(comparison) for comparison in found.comparisons] == [
        ("Response", "Nobody knows.", "Aligned", "Ask him.")
    ]
    assert found.comparisons[0].step == BETTER


def test_what_has_nothing_to_compare_with_shows_its_response():
    row = {**ROW, "aligned": "Nobody knows.", "scores_after": ROW["scores_before"]}
    failed = ShownStep(1, "kind", None, GIVEN.scores, {}, "failed", None)
    empty = ShownStep(1, "kind", None, GIVEN.scores, {}, "refused", "empty_rewrite")
    for steps in ((), (GIVEN, IDLE), (GIVEN, failed), (GIVEN, empty)):
        found = seen(row, *steps, error="server_error: 503" if failed in steps else None)
        assert [told(comparison) for comparison in found.comparisons] == [
            ("Response", "Nobody knows.", "Aligned", None)
        ]
    assert seen(row, GIVEN, failed, error="server_error: 503").reason == "server_error: 503"
    assert seen(row, GIVEN, empty).reason == "empty_rewrite"
    assert [told(each)[3] for each in seen(row, GIVEN, failed, replace(empty, step=2)).comparisons] == [
        None,
        None,
        None,
    ]
