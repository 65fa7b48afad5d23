"""Word-level difference of two texts, cut into the runs a reader can follow."""

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


class Run(NamedTuple):
    """A stretch of both texts: the same words on both sides (`same`), or words that replace one another."""

    same: bool
    before: str
    after: str


def diff(before: str, after: str) -> list[Run]:
    """The runs of two texts, in order; their `before` sides join to `before`, their `after` sides to `after`.

    Words are compared without the white space that follows them. A common run no longer than the changes on both of its
    sides is counted as changed: stray `the`s shared by two different sentences say nothing and break up the reading.
    """
    left, right = _TOKEN.findall(before), _TOKEN.findall(after)
    runs = []
    for op in LCSseq.opcodes([token.rstrip() for token in left], [token.rstrip() for token in right]):
        run = Run(
            op.tag == "equal",
            "".join(left[op.src_start : op.src_end]),
            "".join(right[op.dest_start : op.dest_end]),
        )
        runs.append(run)
    return _absorb(_join(runs))


def _join(runs: Sequence[Run]) -> list[Run]:
    """Neighbouring runs of one kind made one."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].same == run.same:
            last = joined.pop()
            run = Run(run.same, last.before + run.before, last.after + run.after)
        joined.append(run)
    return joined


def _size(run: Run) -> int:
    return max(len(run.before), len(run.after))


def _absorb(runs: list[Run]) -> list[Run]:
    """Common runs no longer than the changes before and after them made part of those."""
    kept = list(runs)
    for index in range(1, len(runs) - 1):
        if runs[index].same and _size(runs[index]) <= min(_size(runs[index - 1]), _size(runs[index + 1])):
            kept[index] = runs[index]._replace(same=False)
    return _join(kept)
