"""Topics: new ones for every question type, from the topics it has (paper 000, app. D and E.2).

The prompt is a numbered list that breaks off after `k.`; the completion goes on with it. Rounds are a driver's: prompts
for the topics so far, candidates from the completions, `balance_topics` over all of them.
"""

import re

import pyarrow as pa

from schemas.criteria.pack import Pack
from schemas.tables import TOPICS, with_drop_reason, with_error
from transforms.prompts import render
from transforms.tables.identity import content_id, sampling_seed

MAX_LINES = 20
MAX_WORDS = 3
MAX_CHARS = 49
FORBIDDEN = ("//", "\\u", "@", "_")
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
NUMBER = re.compile(r"^\d{1,4}[.)]\s*")

TOPIC_PROMPTS = pa.schema(
    {
        "id": pa.string(),
        "question_type": pa.string(),
        "topics": pa.list_(pa.string()),  # those the prompt shows
        "round": pa.int32(),
        "prompt": pa.string(),
    }
)
TOPIC_CANDIDATES = with_error(with_drop_reason(TOPICS))


def seed_topics(pack: Pack) -> pa.Table:
    """Return the topics of a pack's seeds, as round 0."""
    pairs = dict.fromkeys((seed.question_type, seed.topic) for seed in pack.seeds)
    rows = [_topic(question_type, topic, 0) | {"origin": "seed"} for question_type, topic in pairs]
    return pa.Table.from_pylist(rows, TOPICS)


def topic_prompts(topics: pa.Table, *, round: int, seed: int, examples: int = 5, count: int = 10) -> pa.RecordBatch:
    """Return one prompt per topic, in the columns of TOPIC_PROMPTS.

    A type with fewer than twice `examples` topics shows each of them alone, a richer one as many drawn at random.
    count: how many topics the prompt's list is said to have.
    """
    by_type: dict[str, set[str]] = {}
    for row in topics.select(["question_type", "topic"]).to_pylist():
        by_type.setdefault(row["question_type"], set()).add(row["topic"])
    rows = []
    for question_type, topics_of_type in sorted(by_type.items()):
        names = sorted(topics_of_type)
        for topic in names:
            shown = [topic]
            if len(names) >= 2 * examples:
                prompt_id = content_id(str(round), question_type, topic)
                shown = [names[index] for index in draw(examples, len(names), prompt_id, "topics", seed)]
            rows.append(
                {
                    "id": content_id(str(round), question_type, *shown),
                    "question_type": question_type,
                    "topics": shown,
                    "round": round,
                    "prompt": render("topics", question_type=question_type, topics=shown, count=count),
                }
            )
    return pa.RecordBatch.from_pylist(rows, TOPIC_PROMPTS)


def parse_topics(batch: pa.RecordBatch, *, english: bool) -> pa.RecordBatch:
    """Read candidates from completed prompts, one per line, in the columns of TOPIC_CANDIDATES.

    Drop reasons: empty_completion, beyond_line_limit (all lines after the 20th, as one row), truncated, empty,
    too_many_words (over 3), not_capitalised (in English A-Z, else any capital or uncased letter), trailing_punctuation,
    forbidden_text, too_long (50 characters). A prompt that failed is one row with its `error`.
    """
    rows = []
    for row in batch.to_pylist():
        candidate = {"question_type": row["question_type"], "round": row["round"], "origin": "generated"}
        if row.get("error") is not None:
            rows.append(candidate | {"id": row["id"], "error": row["error"]})
            continue
        lines, last_is_whole = completion_lines(row["completion"])
        if not lines:
            rows.append(candidate | {"id": row["id"], "drop_reason": "empty_completion"})
        for index, line in enumerate(lines[:MAX_LINES]):
            topic = NUMBER.sub("", line)
            broken_off = row["finish_reason"] == "length" and index == len(lines) - 1 and not last_is_whole
            reason = "truncated" if broken_off else topic_fault(topic, english)
            rows.append(_topic(row["question_type"], topic, row["round"]) | {"drop_reason": reason})
        if rest := "\n".join(lines[MAX_LINES:]):
            rows.append(_topic(row["question_type"], rest, row["round"]) | {"drop_reason": "beyond_line_limit"})
    return pa.RecordBatch.from_pylist(rows, TOPIC_CANDIDATES)


def topic_fault(topic: str, english: bool) -> str | None:
    """Return the first rule that a topic breaks, by name."""
    if not topic:
        return "empty"
    if len(topic.split()) > MAX_WORDS:
        return "too_many_words"
    first = topic[0]
    if not ("A" <= first <= "Z" if english else first.isalpha() and not first.islower()):
        return "not_capitalised"
    if topic[-1] in PUNCTUATION:
        return "trailing_punctuation"
    if any(text in topic for text in FORBIDDEN):
        return "forbidden_text"
    return "too_long" if len(topic) > MAX_CHARS else None


def balance_topics(topics: pa.Table, *, at_most: int | None = None) -> pa.Table:
    """Mark repeats of a type's topic, and what a type has more than the poorest type.

    Case does not tell topics apart. Earlier rounds come first, then the smaller id. at_most: per type.
    Reasons: repeated_topic, surplus_topic; rows that have a reason or an error already count for nothing.
    """
    rows = topics.to_pylist()
    order = sorted(range(len(rows)), key=lambda index: (rows[index]["round"], rows[index]["id"]))
    kept = [index for index in order if rows[index].get("drop_reason") is None and rows[index].get("error") is None]
    by_type: dict[str, dict[str, int]] = {}
    reasons = {}
    for index in kept:
        names = by_type.setdefault(rows[index]["question_type"], {})
        if names.setdefault(rows[index]["topic"].lower(), index) != index:
            reasons[index] = "repeated_topic"
    least = min((len(names) for names in by_type.values()), default=0)
    room = least if at_most is None else min(least, at_most)
    for names in by_type.values():
        reasons |= dict.fromkeys(list(names.values())[room:], "surplus_topic")
    for index, reason in reasons.items():
        rows[index]["drop_reason"] = reason
    return pa.Table.from_pylist(rows, TOPIC_CANDIDATES)


def completion_lines(completion: str | None) -> tuple[list[str], bool]:
    """Return the lines that have text, stripped, and whether the last one was ended."""
    text = (completion or "").replace("\r\n", "\n").replace("\r", "\n")
    return [line.strip() for line in text.split("\n") if line.strip()], text.rstrip(" \t").endswith("\n")


def draw(count: int, size: int, row_id: str, step: str, seed: int) -> list[int]:
    """Return at most `count` different numbers below `size`, drawn from the row's identity alone."""
    drawn: dict[int, None] = {}
    attempt = 0
    while len(drawn) < min(count, size):
        drawn[sampling_seed(row_id, step, attempt, seed) % size] = None
        attempt += 1
    return list(drawn)


def _topic(question_type: str, topic: str, round: int) -> dict[str, object]:
    row_id = content_id(question_type, topic)
    return {"id": row_id, "question_type": question_type, "topic": topic, "origin": "generated", "round": round}
