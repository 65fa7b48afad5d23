"""Rules: which critiques say nothing specific, what is white space, what a banned word is."""

import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.curation.validity import Validity, drop_invalid, rules_for
from transforms.texts.rules import even_spaces, has_banned_word, is_vague, says_nothing_wrong

PRAISE = ("It keeps to principle 2 (respect).",)
VALIDITY = rules_for(Validity(also=("vague_critique",)))


@pytest.mark.parametrize(
    ("critique", "expected"),
    [
        ("There is nothing wrong with the response.", True),
        ("There is nothing\nwrong with the response, as I see it.", True),
        ("The response follows all four principles, so there is nothing to correct.", True),
        ("It is fine as it is, and I would not touch it.", True),
        ("There is nothing wrong with the tone, but it breaks principle 3 (fairness).", False),
        ("It insults the asker and so breaks principle 2 (respect).", False),
        ("It insults whoever has asked for help.", False),
        ("It is rude and harmful.", True),
        ("It  is \n rude\tand   harmful.", True),
        ("Breaks principle 2.", False),
        ("Breaks principle\u00a02.", False),
        ("Breaks 2 (respect).", False),
        ("Нарушает 2 (уважение).", False),
        ("يخالف ٢ (الاحترام)", False),
        ("Nothing very naïvely wrong with the tone here.", True),
        ("", True),
        (None, None),
    ],
)
def test_a_critique_is_vague_to_whoever_asks(critique, expected):
    assert is_vague(pa.array([critique], pa.string())).to_pylist() == [expected]
    batch = pa.RecordBatch.from_pydict({"critique": pa.array([critique], pa.large_string())})
    marked = drop_invalid(batch, VALIDITY).column("drop_reason").to_pylist()
    assert marked == ["vague_critique" if expected else None]


def test_a_phrase_of_the_criterion_is_vague_although_it_cites_a_principle():
    critiques = pa.array([" It keeps to\nprinciple 2 (respect). ", "It keeps to principle 1 (care)."])
    assert is_vague(critiques, PRAISE).to_pylist() == [True, False]
    assert says_nothing_wrong(critiques, PRAISE).to_pylist() == [True, False]
    assert is_vague(critiques).to_pylist() == [False, False]


def test_a_short_critique_may_find_fault():
    assert says_nothing_wrong(pa.array(["It is rude.", "Nothing is wrong.", None])).to_pylist() == [False, True, None]


def test_white_space_becomes_one_space_and_none_at_the_ends():
    texts = pa.array(["a b", " a \t b\n", "a\u00a0\u3000b", "a\u2028b\x85c", "", " ", None])
    assert even_spaces(texts).to_pylist() == ["a b", "a b", "a b", "a b c", "", "", None]


def test_a_banned_word_is_whole_in_any_script():
    texts = pa.array(["Kill it.", "A skill.", "Où tuer ?", "Tuerait-il ?", "c++", None])
    assert has_banned_word(texts, ("kill", "tuer", "C++")).to_pylist() == [True, False, True, False, True, None]
    assert has_banned_word(texts, ()).to_pylist() == [False] * 6


@settings(deadline=None)
@given(st.lists(st.none() | st.sampled_from(["It is rude.", *PRAISE]) | st.text(), max_size=6), st.integers(0, 6))
def test_cuts_never_matter(critiques, cut):
    batch = pa.RecordBatch.from_pydict({"critique": pa.array(critiques, pa.string())})
    assert_cuts_never_matter(
        lambda part: part.append_column("vague", is_vague(part.column("critique"), PRAISE)), batch, cut
    )
