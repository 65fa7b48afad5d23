"""Novelty against the plain definition: every text compared with all that were kept."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq

from transforms.curation.novelty import similar_kept
from transforms.texts.words import words_of


def rouge_l(one: list[str], other: list[str]) -> float:
    return 2 * LCSseq.similarity(one, other) / max(len(one) + len(other), 1)


def brute_force(texts: list[str], threshold: float) -> list[int]:
    kept: list[int] = []
    found = []
    for row, text in enumerate(texts):
        near = [other for other in kept if rouge_l(text.split(), texts[other].split()) > threshold + 1e-9]
        found.append(near[0] if near else -1)
        if not near:
            kept.append(row)
    return found


TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join), max_size=25)
LONG_TEXTS = st.lists(
    st.lists(st.sampled_from("abcdefgh"), min_size=50, max_size=90).map(" ".join), min_size=2, max_size=6
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(TEXTS, LONG_TEXTS), st.sampled_from([0.3, 0.5, 0.6, 0.7, 0.8, 1.0]))
def test_the_result_is_that_of_all_pairs(texts, threshold):
    assert similar_kept(words_of(pa.array(texts, pa.string())), threshold).tolist() == brute_force(texts, threshold)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["What is a tree?", "what is a TREE", "What is the tree?"], [-1, 0, 0]),  # 2 * 3 / 8
        (["a b c", "c b a"], [-1, -1]),  # order counts: 2 * 1 / 6
        (["a b c d e f g h i j", "a b c d e f g x y z"], [-1, -1]),  # 0.7 is not above 0.7
        (["?!", "", "?!"], [-1, -1, 0]),
    ],
)
def test_small_cases(texts, found):
    assert similar_kept(words_of(pa.array(texts)), 0.7).tolist() == found
