"""How far texts moved: lengths and edit distance, in words."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from transforms.evaluation.intervals import check_paired, distribution


def text_change(before: Sequence[str], after: Sequence[str]) -> dict:
    """Measure how far texts moved.

    That is word counts, and normalised Levenshtein distance over words (0 same, 1 all new). `unchanged` is the share of
    rows whose words are the same, in the same order.
    """
    check_paired("texts before and after", before, after)
    words_before = [text.split() for text in before]
    words_after = [text.split() for text in after]
    distances = [Levenshtein.normalized_distance(a, b) for a, b in zip(words_before, words_after, strict=True)]
    lengths_before = np.array([len(words) for words in words_before], dtype=np.float64)
    lengths_after = np.array([len(words) for words in words_after], dtype=np.float64)
    return {
        "words_before": distribution(lengths_before),
        "words_after": distribution(lengths_after),
        "words_change": distribution(lengths_after - lengths_before),
        "edit_distance": distribution(distances),
        "unchanged": float(np.mean([distance == 0 for distance in distances])) if distances else None,
    }
