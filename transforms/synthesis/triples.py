"""Triples: one completion gives a misaligned response, its critique and a correction (paper 000, app. D and E.1).

The prompt ends in `Response:`; the completion goes on through `Critique:` and `Correction:`. A triple whose critique
finds nothing wrong and whose correction repeats the response is an identity triple: the aligner learns from it to leave
good responses alone. The prompted aligner (app. D) is the same page continued after a response that exists already.

Nothing is removed here: rows get a `drop_reason` (triples) or an `error` (rewrites).
"""

import re
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from schemas.criteria.pack import SECTIONS, Pack
from transforms.prompts import render
from transforms.tables.columns import with_columns
from transforms.tables.identity import content_id
from transforms.tables.marks import drop_where, kept, reject_where
from transforms.texts.rules import (
    ENGLISH_TRIPLE_RULES,
    IDENTITY_PASSES,
    TRIPLE_RULES,
    even_spaces,
    has_banned_word,
    is_vague,
    says_nothing_wrong,
)

TRIPLE_STOP = (f"\n{SECTIONS[0]}:",)  # the next example: stop strings of both prompts
TRIPLE_SECTIONS = SECTIONS[1:]
REWRITE_SECTIONS = SECTIONS[2:]

HEADING = re.compile(rf"^({'|'.join(SECTIONS)}):", re.MULTILINE)
Mark = Callable[[pa.RecordBatch, pa.BooleanArray, str], pa.RecordBatch]


def triple_prompts(batch: pa.RecordBatch, pack: Pack) -> pa.RecordBatch:
    """Add the `prompt` of each question; one without text gets none and the drop reason `empty_question`."""
    questions = [(question or "").strip() for question in batch.column("question").to_pylist()]
    prompts = [render("triples", pack=pack, question=question) if question else None for question in questions]
    batch = with_columns(batch, prompt=pa.array(prompts, pa.string()))
    return drop_where(batch, pc.is_null(batch.column("prompt")), "empty_question")


def parse_triples(batch: pa.RecordBatch, pack: Pack) -> pa.RecordBatch:
    """Read triples from completed questions: add question_id, response, critique, correction and identity.

    `question_id` is the question's id, and a triple gets an `id` of its own. A row without a triple keeps its id, its
    sections are null and it has a drop reason: empty_completion, truncated, repeated_section, missing_critique,
    missing_correction, wrong_order, empty_response, empty_critique or empty_correction. Rows that are marked already
    stay as they are.
    """
    texts, reasons = _read_sections(batch, TRIPLE_SECTIONS, kept(batch).to_pylist())
    sections = _columns(texts, TRIPLE_SECTIONS)
    is_identity = _is_identity(**sections, pack=pack)
    # An identity must not teach a change of white space.
    sections["correction"] = pc.if_else(is_identity, sections["response"], sections["correction"])
    question_ids = batch.column("id").to_pylist()
    triples = zip(*(column.to_pylist() for column in sections.values()), strict=True)
    ids = [
        row_id if reads is None else content_id(row_id, *triple)
        for row_id, reads, triple in zip(question_ids, texts, triples, strict=True)
    ]
    batch = with_columns(
        batch, id=pa.array(ids, pa.string()), question_id=batch.column("id"), **sections, identity=is_identity
    )
    return _mark_each(batch, drop_where, reasons)


def clean_triples(batch: pa.RecordBatch, pack: Pack, *, english: bool) -> pa.RecordBatch:
    """Mark triples that would teach nothing or the wrong thing.

    `english` adds the paper's rules for plain English. Reasons: empty_text, unreadable_character, none_text,
    banned_word, unchanged_correction (although the critique finds fault), copied_question, vague_critique; in English
    also nothing_in_correction, leaked_keyword, markup, code_question, non_ascii. Identity triples pass the rules of
    IDENTITY_PASSES.
    """
    is_kept = kept(batch)
    is_changing = pc.and_(is_kept, pc.invert(pc.fill_null(batch.column("identity"), False)))
    for reason, is_faulty in _faults(batch, pack, english):
        is_asked = is_changing if reason in IDENTITY_PASSES else is_kept
        batch = drop_where(batch, pc.and_(is_faulty, is_asked), reason)
    return batch


def rewrite_prompts(batch: pa.RecordBatch, pack: Pack) -> pa.RecordBatch:
    """Add the prompted aligner's `prompt` to (question, response); null where either text is empty."""
    texts = zip(batch.column("question").to_pylist(), batch.column("response").to_pylist(), strict=True)
    prompts = [
        render("rewrite", pack=pack, question=question.strip(), response=response.strip())
        if (question or "").strip() and (response or "").strip()
        else None
        for question, response in texts
    ]
    return with_columns(batch, prompt=pa.array(prompts, pa.string()))


def parse_rewrite(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Read critique and correction from completed rewrites; a malformed one gets an `error` of parse_triples' names.

    A row with no completion (it was not asked for) or with an error already stays as it is.
    """
    is_asked = pc.and_(kept(batch), pc.is_valid(batch.column("completion"))).to_pylist()
    texts, reasons = _read_sections(batch, REWRITE_SECTIONS, is_asked)
    return _mark_each(with_columns(batch, **_columns(texts, REWRITE_SECTIONS)), reject_where, reasons)


def split_sections(completion: str, sections: tuple[str, ...]) -> tuple[list[str] | None, str | None, bool]:
    """Return (texts, reason, ended) of a completion that goes on after the first section's heading.

    There are either texts or a reason why there are none. `ended` tells whether the next example had begun, so that
    nothing of this one can be missing. A first heading that is repeated at once, as chat models do, is overlooked.
    """
    first = f"{sections[0]}:"
    text = completion.replace("\r\n", "\n").replace("\r", "\n").lstrip()
    text = f"{first}\n{text.removeprefix(first)}"
    headings = list(HEADING.finditer(text))
    end = next((heading.start() for heading in headings if heading[1] == SECTIONS[0]), None)
    if end is not None:
        headings = [heading for heading in headings if heading.start() < end]
    names = [heading[1] for heading in headings]
    stops = [heading.start() for heading in headings[1:]] + [len(text) if end is None else end]
    texts = [text[heading.end() : stop].strip() for heading, stop in zip(headings, stops, strict=True)]
    reason = None
    if not any(texts):
        reason = "empty_completion"
    elif len(set(names)) < len(names) or not set(names) <= set(sections):
        reason = "repeated_section"
    elif missing := [section for section in sections if section not in names]:
        reason = f"missing_{missing[0].lower()}"
    elif names != list(sections):
        reason = "wrong_order"
    elif not all(texts):
        reason = f"empty_{sections[texts.index('')].lower()}"
    return (texts if reason is None else None), reason, end is not None


def _read_sections(
    batch: pa.RecordBatch, sections: tuple[str, ...], is_wanted: list[bool]
) -> tuple[list[list[str] | None], list[str | None]]:
    """Return every wanted row's texts, or why it has none; neither for the others."""
    texts: list[list[str] | None] = [None] * batch.num_rows
    reasons: list[str | None] = [None] * batch.num_rows
    finishes = batch.column("finish_reason").to_pylist()
    for row, completion in enumerate(batch.column("completion").to_pylist()):
        if is_wanted[row]:
            texts[row], reasons[row], ended = split_sections(completion or "", sections)
            if finishes[row] == "length" and not ended:
                texts[row], reasons[row] = None, "truncated"
    return texts, reasons


def _columns(texts: list[list[str] | None], sections: tuple[str, ...]) -> dict[str, pa.Array]:
    return {
        section.lower(): pa.array([text and text[position] for text in texts], pa.string())
        for position, section in enumerate(sections)
    }


def _mark_each(batch: pa.RecordBatch, mark: Mark, reasons: list[str | None]) -> pa.RecordBatch:
    batch = mark(batch, pa.array([False] * batch.num_rows, pa.bool_()), "")  # the column is there, whatever the rows
    for name in sorted(set(filter(None, reasons))):
        batch = mark(batch, pa.array([reason == name for reason in reasons], pa.bool_()), name)
    return batch


def _is_identity(response: pa.Array, critique: pa.Array, correction: pa.Array, pack: Pack) -> pa.BooleanArray:
    is_same = pc.equal(even_spaces(response), even_spaces(correction))
    return pc.fill_null(pc.and_(is_same, says_nothing_wrong(critique, _identity_critiques(pack))), False)


def _identity_critiques(pack: Pack) -> list[str]:
    return [shown.critique for shown in pack.demonstrations if shown.identity]


def _faults(batch: pa.RecordBatch, pack: Pack, english: bool) -> Iterator[tuple[str, pa.BooleanArray]]:
    """Yield (drop reason, rows that deserve it), identity apart, in the order of reasons."""
    texts = {name: batch.column(name) for name in ("question", "response", "critique", "correction")}
    question, response, correction = (even_spaces(texts[name]) for name in ("question", "response", "correction"))
    for text in (question, response, correction):
        yield "empty_text", pc.equal(pc.fill_null(text, ""), "")
    for reason, names, pattern in TRIPLE_RULES + (ENGLISH_TRIPLE_RULES if english else ()):
        for name in names:
            yield reason, pc.match_substring_regex(texts[name], pattern)
    yield "banned_word", has_banned_word(texts["correction"], pack.banned_words)
    yield "unchanged_correction", pc.equal(response, correction)
    yield "copied_question", pc.or_(pc.equal(question, response), pc.equal(question, correction))
    # Words are counted in English alone: other scripts may have no spaces.
    says_nothing = is_vague if english else says_nothing_wrong
    yield "vague_critique", says_nothing(even_spaces(texts["critique"]), _identity_critiques(pack))
