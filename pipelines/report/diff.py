"""Word-level difference of two texts, cut into the spans that a reader can follow."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz.distance import LCSseq

# Scripts written without spaces: each character is a word of its own.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# A word keeps its inner apostrophes and hyphens; punctuation stands alone, so that `good` equals the one in `good.`
_TOKEN = re.compile(
    rf"""^\s+
    | (?: [{_UNSPACED}]
        | [^\s!-/:-@\[-`{{-~{_UNSPACED}]+ (?: ['’-] [^\s!-/:-@\[-`{{-~{_UNSPACED}]+ )*
        | [!-/:-@\[-`{{-~] ) \s*""",
    re.VERBOSE,
)


class DiffSpan(NamedTuple):
    """A stretch of both texts: the same words on both sides, or words that replace one another."""

    is_same: bool
    before: str
    after: str


def diff(before: str, after: str) -> list[DiffSpan]:
    """Return the spans of two texts, in order.

    Their `before` sides join to one text, their `after` sides to the other. `keep the money.`, `return the money.` →
    (changed, `keep `, `return `), (same, `the money.`, `the money.`). Words are compared without the white space that
    follows them. A common span no longer than the changes on both of its sides counts as changed: stray `the`s shared
    by two different sentences say nothing and break up the reading.
    """
    left, right = _TOKEN.findall(before), _TOKEN.findall(after)
    spans = []
    for op in LCSseq.opcodes([token.rstrip() for token in left], [token.rstrip() for token in right]):
        span = DiffSpan(
            op.tag == "equal",
            "".join(left[op.src_start : op.src_end]),
            "".join(right[op.dest_start : op.dest_end]),
        )
        spans.append(span)
    return _absorb(_join(spans))


def _join(spans: Sequence[DiffSpan]) -> list[DiffSpan]:
    """Return the spans with neighbours of one kind made one."""
    joined: list[DiffSpan] = []
    for span in spans:
        if joined and joined[-1].is_same == span.is_same:
            last = joined.pop()
            span = DiffSpan(span.is_same, last.before + span.before, last.after + span.after)
        joined.append(span)
    return joined


def _size(span: DiffSpan) -> int:
    return max(len(span.before), len(span.after))


def _absorb(spans: list[DiffSpan]) -> list[DiffSpan]:
    """Return the spans with short common ones made part of the changes on both sides."""
    kept = list(spans)
    for index in range(1, len(spans) - 1):
        if spans[index].is_same and _size(spans[index]) <= min(_size(spans[index - 1]), _size(spans[index + 1])):
            kept[index] = spans[index]._replace(is_same=False)
    return _join(kept)
