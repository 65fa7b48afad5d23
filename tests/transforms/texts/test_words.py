"""Words: what counts as one in which script, and hashes that tell them apart."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.texts.words import equal_but_for_spaces, words_of, words_of_row

TEXTS = st.lists(st.one_of(st.text(max_size=12), st.text("abA .?日👍", max_size=12), st.none()), max_size=12)


def values(*texts: str | None) -> list[list[int]]:
    found = words_of(pa.array(texts, pa.string()))
    return [found.values[a:b].tolist() for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  What's  UP,\tdoc?\n", "what s up doc"),
        ("a|b<c=d", "a|b<c=d"),
        ("x\x7fy\x00z", "x y z"),
        ("ＦＵＬＬ width ﬁne", "full width fine"),
        ("cafe\u0301", "café"),
        ("so\u00adft \u200bhid\u200bden", "soft hidden"),
        ("C++ < 3 €", "c++ < 3 €"),
        ("Never mix “quotes” — or dashes", "never mix quotes or dashes"),
        ("你好 world", "你 好 world"),
        ("これはペン", "こ れ は ペ ン"),
        ("سلام، دنیا", "سلام دنیا"),
        ("yes 👍🏽!", "yes 👍🏽"),
        (" \n", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_words_of_many_scripts(text, words):
    assert values(text) == [[word for (word,) in values(*words.split())]]


def test_a_text_without_words_is_its_punctuation():
    alone, spaced, other, foreign = values("?!", " ?! ", "!?", "？！")
    assert len(alone) == 1
    assert alone == spaced == foreign != other


@settings(deadline=None)
@given(TEXTS, st.integers(0, 12))
def test_cuts_and_neighbours_never_matter(texts, cut):
    array = pa.array(texts, pa.string())
    whole = words_of(array)
    parts = [words_of(part) for part in (array[:cut], array[cut:])]
    assert np.concatenate([part.values for part in parts]).tolist() == whole.values.tolist()
    assert np.concatenate([part.content() for part in parts]).tolist() == whole.content().tolist()


def test_content_tells_order_and_columns_apart():
    texts = ["a b c", "A, b: c!", "c b a", "a b", "ab c", "", "a b c c"]
    content = [tuple(row) for row in words_of(pa.array(texts)).content().tolist()]
    assert content[0] == content[1]
    assert len(set(content)) == len(texts) - 1
    batch = pa.record_batch({"q": ["a b", "a", "a b"], "r": ["c", "b c", "c"]})
    one, other, again = words_of_row(batch, ["q", "r"]).content().tolist()
    assert one == again != other


def test_hashes_never_change():
    found = words_of(pa.array(["a Bc"]))
    assert found.values.tolist() == [198367012849983736, 10829610802616609559]
    assert found.content().tolist() == [[1888456615499713580, 4259681026043381294]]


SPACED = st.lists(st.tuples(*[st.text("ab \n\té", max_size=8)] * 2), max_size=12)


@settings(deadline=None)
@given(SPACED)
def test_white_space_is_all_that_may_differ(pairs):
    one, other = (pa.array([pair[side] for pair in pairs], pa.string()) for side in (0, 1))
    assert equal_but_for_spaces(one, other).tolist() == [a.split() == b.split() for a, b in pairs]
    assert equal_but_for_spaces(one, one).all()
