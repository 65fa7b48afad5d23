"""How much texts changed, in words."""

import pytest

from transforms.evaluation.text_change import text_change


def test_length_and_edit_distance_are_counted_in_words():
    result = text_change(["one two three four", "same  words", ""], ["one two five four", "same words", "new"])
    assert result["words_before"]["mean"] == pytest.approx(2.0)
    assert result["words_change"]["mean"] == pytest.approx(1 / 3)
    assert result["edit_distance"]["mean"] == pytest.approx((0.25 + 0.0 + 1.0) / 3)
    assert result["unchanged"] == pytest.approx(1 / 3)
