"""Validity: small named rules, each dropping a row with its own reason.

A rule looks at one batch and says which rows break it. It is skipped where the table lacks a column it looks at, and a
null text breaks none but `empty_text`. Rules that only make sense in plain English text (ASCII, markup, English
keywords; FACTS of paper 000's cleaning) are apart: on real chat answers they would drop almost every other row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from transforms.drops import drop_where
from transforms.triples import CITES, ENGLISH_RULES, IDENTITY_PASSES, NOTHING_WRONG, RULES, VAGUE_WORDS

TEXT_COLUMNS = ("question", "response", "correction")


@dataclass(frozen=True)
class Rule:
    """`breaks(texts…)` tells, for the arrays of `columns`, which rows break the rule."""

    reason: str
    columns: tuple[str, ...]
    breaks: Callable[..., pa.BooleanArray]

    def marks(self, batch: pa.RecordBatch) -> pa.BooleanArray | None:
        """The rows that break the rule, identity triples excepted where the rule lets them pass; None if skipped."""
        if not set(self.columns) <= set(batch.schema.names):
            return None
        broken = pc.fill_null(self.breaks(*(batch.column(name) for name in self.columns)), False)
        if self.reason in IDENTITY_PASSES and "identity" in batch.schema.names:
            broken = pc.and_not(broken, pc.fill_null(batch.column("identity"), False))
        return broken


def rules_for(*, english_plain_text: bool, max_chars: int, skip: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """The rules in the order in which they are asked, without those named in `skip`.

    Raises ValueError where `skip` names a rule that does not exist.
    """
    universal = [
        *(Rule("empty_text", (column,), _is_blank) for column in TEXT_COLUMNS),
        *(Rule("too_long", (column,), partial(_is_longer, max_chars=max_chars)) for column in TEXT_COLUMNS),
        *_pattern_rules(RULES),
        Rule("unchanged_correction", ("response", "correction"), _are_same),
        Rule("copied_question", ("question", "response"), _are_same),
        Rule("copied_question", ("question", "correction"), _are_same),
    ]
    english = [*_pattern_rules(ENGLISH_RULES), Rule("vague_critique", ("critique",), _is_vague)]
    known = {rule.reason for rule in universal + english}
    for name in skip:
        if name not in known:
            raise ValueError(f"skip_rules: no rule {name!r}; the rules are {', '.join(sorted(known))}")
    chosen = universal + (english if english_plain_text else [])
    return tuple(rule for rule in chosen if rule.reason not in skip)


def drop_invalid(batch: pa.RecordBatch, rules: tuple[Rule, ...]) -> pa.RecordBatch:
    """Mark rows by the first rule they break; before all rules, rows that are not UTF-8 (`invalid_utf8`)."""
    readable, unreadable = _readable(batch)
    batch = drop_where(readable, unreadable, "invalid_utf8")
    for rule in rules:
        broken = rule.marks(batch)
        if broken is not None:
            batch = drop_where(batch, broken, rule.reason)
    return batch


def readable_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with U+FFFD in place of bytes that are not UTF-8."""
    return _readable(batch)[0]


def _readable(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.BooleanArray]:
    unreadable = pa.array([False] * batch.num_rows, pa.bool_())
    for index, field in enumerate(batch.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            try:
                batch.column(index).validate(full=True)
            except pa.ArrowInvalid:
                values = batch.column(index).cast(pa.large_binary()).to_pylist()
                texts = [value if value is None else value.decode("utf-8", "replace") for value in values]
                changed = [t is not None and t.encode() != v for v, t in zip(values, texts, strict=True)]
                unreadable = pc.or_(unreadable, pa.array(changed, pa.bool_()))
                batch = batch.set_column(index, field, pa.array(texts, field.type))
    return batch, unreadable


def _pattern_rules(rules: tuple[tuple[str, tuple[str, ...], str], ...]) -> list[Rule]:
    return [
        Rule(reason, (column,), partial(pc.match_substring_regex, pattern=pattern))
        for reason, columns, pattern in rules
        for column in columns
    ]


def _is_blank(texts: pa.Array) -> pa.BooleanArray:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(texts, ""))), 0)


def _is_longer(texts: pa.Array, max_chars: int) -> pa.BooleanArray:
    return pc.greater(pc.utf8_length(texts), max_chars)


def _are_same(one: pa.Array, other: pa.Array) -> pa.BooleanArray:
    return pc.equal(_plain(one), _plain(other))


def _plain(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), r"\s+", " ")


def _is_vague(critiques: pa.Array) -> pa.BooleanArray:
    words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(critiques)))
    nothing = pc.match_substring_regex(critiques, NOTHING_WRONG.pattern, ignore_case=True)
    return pc.and_not(pc.or_(nothing, pc.less(words, VAGUE_WORDS)), pc.match_substring_regex(critiques, CITES.pattern))
