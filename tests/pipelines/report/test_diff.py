from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.diff import DiffSpan, diff

SAME, CHANGED = True, False


def test_only_what_differs_is_changed():
    assert diff("You should keep the money.", "You should return the money.") == [
        DiffSpan(SAME, "You should ", "You should "),
        DiffSpan(CHANGED, "keep ", "return "),
        DiffSpan(SAME, "the money.", "the money."),
    ]


def test_punctuation_is_no_part_of_a_word():
    assert diff("Be kind", "Be kind, always.") == [
        DiffSpan(SAME, "Be kind", "Be kind"),
        DiffSpan(CHANGED, "", ", always."),
    ]


def test_words_keep_apostrophes_and_hyphens():
    assert diff("don't re-use it", "don't use it")[0] == DiffSpan(SAME, "don't ", "don't ")


def test_scripts_without_spaces_are_compared_by_character():
    assert diff("彼は悪い人です", "彼は良い人です") == [
        DiffSpan(SAME, "彼は", "彼は"),
        DiffSpan(CHANGED, "悪", "良"),
        DiffSpan(SAME, "い人です", "い人です"),
    ]


def test_a_stray_word_between_two_changes_is_changed_too():
    assert diff("Nobody ever thought the idea worth anything.", "People will love the taste of fresh bread.") == [
        DiffSpan(CHANGED, "Nobody ever thought the idea worth anything", "People will love the taste of fresh bread"),
        DiffSpan(SAME, ".", "."),
    ]


def test_white_space_alone_is_no_change():
    assert diff("one two", "one\n\ntwo") == [DiffSpan(SAME, "one two", "one\n\ntwo")]


texts = st.text(st.sampled_from("ab ,.'-\n良い👍🏽\u0301ש"), max_size=60)


@given(texts, texts)
def test_spans_join_to_the_two_texts(before, after):
    spans = diff(before, after)
    assert "".join(span.before for span in spans) == before
    assert "".join(span.after for span in spans) == after
    assert all(left.is_same != right.is_same for left, right in pairwise(spans))


@given(texts)
def test_a_text_does_not_differ_from_itself(text):
    assert all(span.is_same for span in diff(text, text))
