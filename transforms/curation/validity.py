"""Validity: small named rules, each dropping a row with its own reason.

A rule looks at one batch and says which rows break it. It is skipped where the table lacks one of its columns, and a
null text breaks none but `empty_text`. Rules that only make sense for some data, such as those for plain English text
(ASCII, markup, English keywords; FACTS of paper 000's cleaning), are asked only where they are named: on real chat
answers the English ones would drop almost every other row.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.tables.columns import is_text
from transforms.tables.marks import drop_where
from transforms.texts.rules import (
    ENGLISH_TRIPLE_RULES,
    IDENTITY_PASSES,
    LEAKED_MARKER,
    OPTIONAL_RULES,
    TRIPLE_RULES,
    banned_pattern,
    is_vague,
)
from transforms.texts.shingles import shingles
from transforms.texts.words import equal_but_for_spaces, words_of

TEXT_COLUMNS = ("question", "response", "correction")
SCRIPT_SHARE = 0.5  # of a text's letters
REPEATED_WORDS, REPEATED_FROM = 3, 20  # n-grams of so many words, in texts that have so many of them
SHOWN = 60  # characters of a text that `explain` quotes


@dataclass(frozen=True, kw_only=True)
class Validity:
    """Which rules are asked, and their limits. A limit by column is a pair, the least and the most that is allowed."""

    max_chars: int = 100_000  # of every text
    chars: dict[str, tuple[int, int]] = field(default_factory=dict)  # by column
    words: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # by column; see transforms.texts.words for what one is
    scripts: tuple[str, ...] = ()  # Unicode scripts, such as Latin, to which at least half of a text's letters belong
    max_repetition: float = 0.7  # share of a text's word 3-grams that stand in it before
    banned_words: tuple[str, ...] = ()  # whole words, in any case
    json_columns: tuple[str, ...] = ()  # columns whose texts must be JSON
    english_plain_text: bool = False  # ask the rules of paper 000 for plain English text
    also: tuple[str, ...] = ()  # more rules to ask, by name
    skip: tuple[str, ...] = ()  # rules to leave out, by name

    def __post_init__(self) -> None:
        if self.max_chars < 1:
            raise ValueError(f"max_chars: must be at least 1, not {self.max_chars}")
        if not 0 < self.max_repetition <= 1:
            raise ValueError(f"max_repetition: {self.max_repetition} is not a share above 0 and up to 1")
        for name in ("chars", "words"):
            for column, (low, high) in getattr(self, name).items():
                if not 0 <= low <= high:
                    raise ValueError(f"{name}.{column}: [{low}, {high}] is not a range of lengths")
        for script in self.scripts:
            if not _is_script(script):
                raise ValueError(f"scripts: {script!r} is no Unicode script; names are such as Latin, Han or Cyrillic")
        optional = {rule.reason for rule in _optional_rules()}
        for name in self.also:
            if name not in optional:
                raise ValueError(f"also: no rule {name!r}; the rules are {', '.join(sorted(optional))}")
        reasons = optional | {rule.reason for rule in _standard_rules(self)}
        for name in self.skip:
            if name not in reasons:
                raise ValueError(f"skip: no rule {name!r}; the rules are {', '.join(sorted(reasons))}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that limits name."""
        return tuple(dict.fromkeys([*self.chars, *self.words, *self.json_columns]))


@dataclass(frozen=True)
class Rule:
    """A named rule about the texts of `columns`; it is skipped where one of them is missing or is not text.

    breaks: takes an array for each column and returns which rows break the rule.
    sees: takes the same arrays, of one row, and returns in a few words what the rule looked at.
    """

    reason: str
    columns: tuple[str, ...]
    breaks: Callable[..., pa.BooleanArray]
    sees: Callable[..., str]

    def marks(self, batch: pa.RecordBatch) -> pa.BooleanArray | None:
        """Mark the rows that break the rule, None if skipped.

        Identity triples pass where the rule lets them.
        """
        names = batch.schema.names
        if not all(name in names and is_text(batch.schema.field(name).type) for name in self.columns):
            return None
        is_broken = pc.fill_null(self.breaks(*(batch.column(name) for name in self.columns)), False)
        if self.reason in IDENTITY_PASSES and "identity" in batch.schema.names:
            is_broken = pc.and_not(is_broken, pc.fill_null(batch.column("identity"), False))
        return is_broken


def rules_for(validity: Validity) -> tuple[Rule, ...]:
    """Return the rules in the order in which they are asked."""
    english = (
        {name for name, _, _ in ENGLISH_TRIPLE_RULES} | {"vague_critique"} if validity.english_plain_text else set()
    )
    named = english | set(validity.also)
    rules = [*_standard_rules(validity), *(rule for rule in _optional_rules() if rule.reason in named)]
    return tuple(rule for rule in rules if rule.reason not in validity.skip)


def explain(batch: pa.RecordBatch, rules: tuple[Rule, ...]) -> Iterator[tuple[str, str, bool, str]]:
    """Ask every rule about a batch of one row.

    Of each it tells reason, columns, whether it is broken, and what it saw.
    """
    for rule in rules:
        is_broken = rule.marks(batch)
        if is_broken is not None:
            texts = [batch.column(name) for name in rule.columns]
            seen = "no text" if any(text.null_count for text in texts) else rule.sees(*texts)
            yield rule.reason, ", ".join(rule.columns), is_broken[0].as_py(), seen


def drop_invalid(batch: pa.RecordBatch, rules: tuple[Rule, ...]) -> pa.RecordBatch:
    """Mark rows by the first rule they break.

    Before all rules it marks rows that are not UTF-8 (`invalid_utf8`).
    """
    readable, is_unreadable = _readable(batch)
    batch = drop_where(readable, is_unreadable, "invalid_utf8")
    for rule in rules:
        is_broken = rule.marks(batch)
        if is_broken is not None:
            batch = drop_where(batch, is_broken, rule.reason)
    return batch


def readable_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Put U+FFFD in place of bytes that are not UTF-8."""
    return _readable(batch)[0]


def _readable(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.BooleanArray]:
    """Return the batch with U+FFFD for what is not UTF-8, and which rows had such bytes."""
    is_unreadable = pa.array([False] * batch.num_rows, pa.bool_())
    for index, column in enumerate(batch.schema):
        if is_text(column.type):
            try:
                batch.column(index).validate(full=True)
            except pa.ArrowInvalid:
                values = batch.column(index).cast(pa.large_binary()).to_pylist()
                texts = [value if value is None else value.decode("utf-8", "replace") for value in values]
                is_changed = [t is not None and t.encode() != v for v, t in zip(values, texts, strict=True)]
                is_unreadable = pc.or_(is_unreadable, pa.array(is_changed, pa.bool_()))
                batch = batch.set_column(index, column, pa.array(texts, column.type))
    return batch, is_unreadable


def _standard_rules(validity: Validity) -> Iterator[Rule]:
    """Return the rules that are asked about all data, and those that have a limit."""
    for column in TEXT_COLUMNS:
        yield Rule("empty_text", (column,), _is_blank, _quoted)
    for column in TEXT_COLUMNS:
        yield _at_most("too_long", column, pc.utf8_length, validity.max_chars, "characters")
    for column, (low, high) in validity.chars.items():
        yield _at_least("too_short", column, pc.utf8_length, low, "characters")
        yield _at_most("too_long", column, pc.utf8_length, high, "characters")
    for column, (low, high) in validity.words.items():
        yield _at_least("too_few_words", column, _word_count, low, "words")
        yield _at_most("too_many_words", column, _word_count, high, "words")
    yield from _pattern_rules((*TRIPLE_RULES, ("leaked_marker", TEXT_COLUMNS, LEAKED_MARKER)))
    if validity.banned_words:
        yield from _pattern_rules((("banned_word", TEXT_COLUMNS, banned_pattern(validity.banned_words)),))
    for column in validity.json_columns:
        yield Rule("malformed_json", (column,), _is_no_json, _quoted)
    if validity.scripts:
        share, unit = partial(_script_share, scripts=validity.scripts), f"of its letters {', '.join(validity.scripts)}"
        for column in TEXT_COLUMNS:
            yield _at_least("other_script", column, share, SCRIPT_SHARE, unit)
    for column in TEXT_COLUMNS:
        unit = f"of its {REPEATED_WORDS}-grams repeated"
        yield _at_most("repetitive", column, _repetition, validity.max_repetition, unit)
    yield Rule("truncated", ("finish_reason",), partial(pc.equal, "length"), _quoted)
    yield Rule("unchanged_correction", ("response", "correction"), _are_same, _quoted)
    yield Rule("copied_question", ("question", "response"), _are_same, _quoted)
    yield Rule("copied_question", ("question", "correction"), _are_same, _quoted)


def _optional_rules() -> Iterator[Rule]:
    yield from _pattern_rules((*OPTIONAL_RULES, *ENGLISH_TRIPLE_RULES))
    yield Rule("vague_critique", ("critique",), is_vague, _quoted)


def _pattern_rules(rules: tuple[tuple[str, tuple[str, ...], str], ...]) -> Iterator[Rule]:
    for reason, columns, pattern in rules:
        for column in columns:
            breaks = partial(pc.match_substring_regex, pattern=pattern)
            yield Rule(reason, (column,), breaks, partial(_first_match, pattern=pattern))


def _at_most(reason: str, column: str, measure: Callable[[pa.Array], pa.Array], limit: float, unit: str) -> Rule:
    breaks = partial(_exceeds, measure=measure, limit=limit)
    return Rule(reason, (column,), breaks, partial(_measured, measure=measure, limit=f"at most {limit:,} {unit}"))


def _at_least(reason: str, column: str, measure: Callable[[pa.Array], pa.Array], limit: float, unit: str) -> Rule:
    breaks = partial(_falls_short, measure=measure, limit=limit)
    return Rule(reason, (column,), breaks, partial(_measured, measure=measure, limit=f"at least {limit:,} {unit}"))


def _exceeds(texts: pa.Array, measure: Callable[[pa.Array], pa.Array], limit: float) -> pa.BooleanArray:
    return pc.and_(pc.is_valid(texts), pc.greater(measure(texts), limit))


def _falls_short(texts: pa.Array, measure: Callable[[pa.Array], pa.Array], limit: float) -> pa.BooleanArray:
    return pc.and_(pc.is_valid(texts), pc.less(measure(texts), limit))


def _measured(texts: pa.Array, measure: Callable[[pa.Array], pa.Array], limit: str) -> str:
    value = measure(texts)[0].as_py()
    return f"{value:,.2f} ({limit})" if isinstance(value, float) else f"{value:,} ({limit})"


def _first_match(texts: pa.Array, pattern: str) -> str:
    match = pc.extract_regex(texts, f"(?P<match>{pattern})")[0].as_py()
    return "no match" if match is None else repr(match["match"][:SHOWN])


def _quoted(*texts: pa.Array) -> str:
    return " and ".join(repr(text[0].as_py()[:SHOWN]) for text in texts)


def _word_count(texts: pa.Array) -> pa.Array:
    return pa.array(np.diff(words_of(texts).offsets))


def _repetition(texts: pa.Array) -> pa.Array:
    """Return the share of a text's n-grams of words that stand in it before.

    It is 0 where the text has too few to tell.
    """
    # 30 n-grams, 12 of them different → 1 - 12 / 30 = 0.6
    grams = shingles(words_of(texts), REPEATED_WORDS)
    sizes = grams.sizes()
    shares = 1 - grams.distinct() / np.maximum(sizes, 1)
    return pa.array(np.where(sizes >= REPEATED_FROM, shares, 0.0))


def _script_share(texts: pa.Array, scripts: tuple[str, ...]) -> pa.Array:
    """Return the share of a text's letters in one of the scripts; 1 where it has no letter."""
    wanted = "".join(rf"\p{{{script}}}" for script in scripts)
    ours = pc.count_substring_regex(texts, f"[{wanted}]")
    letters = pc.count_substring_regex(texts, r"\pL")
    return pc.if_else(pc.equal(letters, 0), 1.0, pc.divide(pc.cast(ours, pa.float64()), pc.cast(letters, pa.float64())))


def _is_script(name: str) -> bool:
    if not re.fullmatch("Yi|[A-Z][A-Za-z_]{2,}", name) or name == "Any":  # shorter ones are general categories
        return False
    try:
        pc.match_substring_regex(pa.array([""]), rf"\p{{{name}}}")
    except pa.ArrowInvalid:
        return False
    return True


def _is_no_json(texts: pa.Array) -> pa.BooleanArray:
    return pa.array([text is not None and not _is_json(text) for text in texts.to_pylist()], pa.bool_())


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_blank(texts: pa.Array) -> pa.BooleanArray:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(texts, ""))), 0)


def _are_same(left: pa.Array, right: pa.Array) -> pa.BooleanArray:
    are_there = pc.and_(pc.is_valid(left), pc.is_valid(right))
    return pc.and_(are_there, pa.array(equal_but_for_spaces(*map(pc.utf8_trim_whitespace, (left, right)))))
