"""Questions: new ones from hints, pairs of topic and question type (paper 000, app. D and E.2).

A prompt lists hints, answers the first few with questions kept before, and breaks off after `k.`; the completion goes
on, hint by hint. Rounds are a driver's: prompts for the pairs that have no question yet, candidates from the
completions, filters, `drop_repeated_questions` against all that was kept.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

from schemas.criteria.pack import Pack
from schemas.tables import QUESTIONS, with_drop_reason, with_error
from transforms.prompts import render
from transforms.synthesis.topics import completion_lines, draw
from transforms.tables.identity import content_id, sampling_seed
from transforms.tables.marks import drop_where
from transforms.texts.rules import ENGLISH_QUESTION_RULES, QUESTION_RULES, has_banned_word

LINES_PER_HINT = 2  # a completion with more lines than that per hint has lost its thread
NUMBERED = re.compile(r"^(\d{1,4})\.\s*")
NOT_WORD = re.compile(r"\W+")

QUESTION_PROMPTS = pa.schema(
    {
        "id": pa.string(),
        "criterion": pa.string(),
        "round": pa.int32(),
        "topics": pa.list_(pa.string()),  # of all hints, the answered ones first
        "question_types": pa.list_(pa.string()),
        "examples": pa.int32(),  # how many hints the prompt answers
        "prompt": pa.string(),
    }
)
QUESTION_CANDIDATES = with_error(with_drop_reason(QUESTIONS))


def seed_questions(pack: Pack) -> pa.Table:
    """Return the questions of a pack's seeds, as round 0."""
    rows = [_question(seed.question, seed.topic, seed.question_type, pack.name, 0) for seed in pack.seeds]
    return pa.Table.from_pylist([row | {"origin": "seed"} for row in rows], QUESTIONS)


def hint(topic: str, question_type: str) -> str:
    return f"{topic} | {question_type}"


def question_prompts(
    topics: pa.Table, kept: pa.Table, pack: Pack, *, round: int, seed: int, examples: int = 5, hints: int = 15
) -> pa.RecordBatch:
    """Return prompts for every (topic, type) that has no kept question, in the columns of QUESTION_PROMPTS.

    The pairs are shuffled and dealt out, `hints` to a prompt; its examples are drawn from the kept rows. Both depend on
    the seed, the round and the rows' content alone, not on the rows' order.
    """
    questions = sorted(kept.select(QUESTIONS.names).to_pylist(), key=lambda row: row["id"])
    answered = {(row["topic"], row["question_type"]) for row in questions}
    columns = (topics.column("topic").to_pylist(), topics.column("question_type").to_pylist())
    open_pairs = set(zip(*columns, strict=True)) - answered
    pairs = sorted(open_pairs, key=lambda pair: (sampling_seed(content_id(*pair), "hints", round, seed), pair))
    rows = []
    for start in range(0, len(pairs), hints):
        asked = pairs[start : start + hints]
        row_id = content_id(pack.name, str(round), *(text for pair in asked for text in pair))
        shown = [questions[index] for index in draw(examples, len(questions), row_id, "examples", seed)]
        all_pairs = [(row["topic"], row["question_type"]) for row in shown] + asked
        prompt = render(
            "questions",
            failure=pack.failure,
            hints=[hint(*pair) for pair in all_pairs],
            examples=[row["question"] for row in shown],
        )
        rows.append(
            {
                "id": row_id,
                "criterion": pack.name,
                "round": round,
                "topics": [topic for topic, _ in all_pairs],
                "question_types": [question_type for _, question_type in all_pairs],
                "examples": len(shown),
                "prompt": prompt,
            }
        )
    return pa.RecordBatch.from_pylist(rows, QUESTION_PROMPTS)


def parse_questions(batch: pa.RecordBatch, *, always_drop_last: bool = False) -> pa.RecordBatch:
    """Read candidates from completed prompts, one per line, in the columns of QUESTION_CANDIDATES.

    A line counts if it begins with its number and exactly that number's hint. Drop reasons: empty_completion,
    malformed_line (no number), unasked_hint (a number outside the list), wrong_hint, repeated_hint, empty_question,
    truncated (the last line, if the completion broke off there; with `always_drop_last`, as in the paper, in any case),
    beyond_line_limit (the remaining lines as one row). A malformed line stands in `question`. A prompt that failed is
    one row with its `error`.
    """
    rows: list[dict[str, object]] = []
    for row in batch.to_pylist():
        failed = {"id": row["id"], "criterion": row["criterion"], "round": row["round"], "origin": "generated"}
        if row.get("error") is not None:
            rows.append(failed | {"error": row["error"]})
            continue
        completion = (row["completion"] or "").lstrip()
        if completion and not NUMBERED.match(completion):  # the prompt ended in the first line's number
            completion = f"{row['examples'] + 1}. {completion}"
        lines, last_is_whole = completion_lines(completion)
        if not lines:
            rows.append(failed | {"drop_reason": "empty_completion"})
        limit = LINES_PER_HINT * (len(row["topics"]) - row["examples"])
        drop_last = always_drop_last or (row["finish_reason"] == "length" and not last_is_whole)
        seen: set[int] = set()
        for index, line in enumerate(lines[:limit]):
            candidate = _read_line(line, row, seen)
            if drop_last and index == len(lines) - 1:
                candidate["drop_reason"] = "truncated"
            rows.append(candidate)
        if rest := "\n".join(lines[limit:]):
            rows.append(_malformed(rest, row, "beyond_line_limit"))
    return pa.RecordBatch.from_pylist(rows, QUESTION_CANDIDATES)


def filter_questions(batch: pa.RecordBatch, pack: Pack, *, english: bool) -> pa.RecordBatch:
    """Mark questions by Self-Instruct's rules.

    They have 4 to 150 words, no punctuation first, and no word that the pack bans. `english` adds: ASCII first, no word
    that asks for what text cannot give, no request for a program.
    """
    questions = batch.column("question")
    for reason, pattern in QUESTION_RULES + (ENGLISH_QUESTION_RULES if english else ()):
        batch = drop_where(batch, pc.match_substring_regex(questions, pattern), reason)
    return drop_where(batch, has_banned_word(questions, pack.banned_words), "banned_word")


def drop_repeated_questions(candidates: pa.Table, kept: pa.Table) -> pa.Table:
    """Mark candidates whose (topic, type) or whose text, case and punctuation apart, has a question already.

    Among candidates the smallest id wins. Reasons: repeated_hint, repeated_question; rows that have a reason or an
    error already count for nothing.
    """
    earlier = kept.select(["question", "topic", "question_type"]).to_pylist()
    pairs = {(row["topic"], row["question_type"]) for row in earlier}
    texts = {normal_form(row["question"]) for row in earlier}
    rows = candidates.to_pylist()
    for row in sorted(rows, key=lambda row: row["id"]):
        if row["drop_reason"] is not None or row["error"] is not None:
            continue
        pair, text = (row["topic"], row["question_type"]), normal_form(row["question"])
        if pair in pairs:
            row["drop_reason"] = "repeated_hint"
        elif text in texts:
            row["drop_reason"] = "repeated_question"
        else:
            pairs.add(pair)
            texts.add(text)
    return pa.Table.from_pylist(rows, QUESTION_CANDIDATES)


def normal_form(question: str) -> str:
    """Return the words of a question without case, punctuation or spacing."""
    return NOT_WORD.sub(" ", question.casefold()).strip() or question


def _read_line(line: str, row: dict, seen: set[int]) -> dict[str, object]:
    numbered = NUMBERED.match(line)
    if numbered is None:
        return _malformed(line, row, "malformed_line")
    index = int(numbered[1]) - 1
    if not row["examples"] <= index < len(row["topics"]):
        return _malformed(line, row, "unasked_hint")
    topic, question_type = row["topics"][index], row["question_types"][index]
    prefix = f"{hint(topic, question_type)}:"
    rest = line[numbered.end() :]
    if not rest.startswith(prefix):
        return _malformed(line, row, "wrong_hint")
    question = rest.removeprefix(prefix).strip()
    reason = "repeated_hint" if index in seen else None if question else "empty_question"
    seen.add(index)
    return _question(question, topic, question_type, row["criterion"], row["round"]) | {"drop_reason": reason}


def _malformed(text: str, row: dict, reason: str) -> dict[str, object]:
    return _question(text, None, None, row["criterion"], row["round"]) | {"drop_reason": reason}


def _question(
    question: str, topic: str | None, question_type: str | None, criterion: str, round: int
) -> dict[str, object]:
    return {
        "id": content_id(criterion, question_type or "", topic or "", question),
        "question": question,
        "question_type": question_type,
        "topic": topic,
        "criterion": criterion,
        "origin": "generated",
        "round": round,
    }
