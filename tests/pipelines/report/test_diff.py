from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.diff import Run, diff

SAME, CHANGED = True, False


def test_only_what_differs_is_changed():
    assert diff("You should keep the money.", "You should return the money.") == [
        Run(SAME, "You should ", "You should "),
        Run(CHANGED, "keep ", "return "),
        Run(SAME, "the money.", "the money."),
    ]


def test_punctuation_is_no_part_of_a_word():
    assert diff("Be kind", "Be kind, always.") == [
        Run(SAME, "Be kind", "Be kind"),
        Run(CHANGED, "", ", always."),
    ]


def test_words_keep_apostrophes_and_hyphens():
    assert diff("don't re-use it", "don't use it")[0] == Run(SAME, "don't ", "don't ")


def test_scripts_without_spaces_are_compared_by_character():
    assert diff("彼は悪い人です", "彼は良い人です") == [
        Run(SAME, "彼は", "彼は"),
        Run(CHANGED, "悪", "良"),
        Run(SAME, "い人です", "い人です"),
    ]


def test_a_stray_word_between_two_changes_is_changed_too():
    assert diff("Nobody ever thought the idea worth anything.", "People will love the taste of fresh bread.") == [
        Run(CHANGED, "Nobody ever thought the idea worth anything", "People will love the taste of fresh bread"),
        Run(SAME, ".", "."),
    ]


def test_white_space_alone_is_no_change():
    assert diff("one two", "one\n\ntwo") == [Run(SAME, "one two", "one\n\ntwo")]


texts = st.text(st.sampled_from("ab ,.'-\n良い👍🏽\u0301ש"), max_size=60)


@given(texts, texts)
def test_runs_join_to_the_two_texts(before, after):
    runs = diff(before, after)
    assert "".join(run.before for run in runs) == before
    assert "".join(run.after for run in runs) == after
    assert all(left.same != right.same for left, right in pairwise(runs))


@given(texts)
def test_a_text_does_not_differ_from_itself(text):
    assert all(run.same for run in diff(text, text))
