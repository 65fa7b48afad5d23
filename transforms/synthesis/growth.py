"""How many topics and questions there will be, and what prompts for them look like, before any is asked for."""

from collections import Counter
from itertools import product
from math import ceil

import pyarrow as pa

from schemas.criteria.pack import Pack
from schemas.tables import TOPICS
from transforms.synthesis.questions import hint, question_prompts, seed_questions
from transforms.synthesis.topics import seed_topics, topic_prompts
from transforms.tables.identity import content_id

SHOWN_SEEDS = 40  # whose topics and types are put together anew


def topic_growth(
    pack: Pack, *, rounds: int, examples: int, per_prompt: int, per_type: int | None, longer: float = 1.0
) -> tuple[int, int]:
    """Return the prompts of all topic rounds, and the topics that are left after them.

    A round has a prompt for each topic there is before it. A prompt asks for a list of `per_prompt` and shows one of
    them itself, or `examples` of them once a type has twice as many. longer: how much longer than that lists are.
    """
    by_type = Counter(row["question_type"] for row in seed_topics(pack).to_pylist())
    prompts = 0
    for _ in range(rounds):
        for question_type, topics in by_type.items():
            shown = examples if topics >= 2 * examples else 1
            prompts += topics
            by_type[question_type] += ceil(topics * longer * max(0, per_prompt - shown))
    poorest = min(by_type.values())
    return prompts, len(by_type) * (poorest if per_type is None else min(poorest, per_type))


def question_growth(
    *, kept: int, count: int, topics: int, rounds: int, hints: int, surplus: float, survival: float
) -> tuple[int, int]:
    """Return the prompts of all question rounds, and the questions there are after them.

    A round asks for `surplus` times what is missing, each topic for one question. survival: the share of those asked
    for that is kept.
    """
    prompts = 0
    for _ in range(rounds):
        unanswered = topics - kept
        asked = min(ceil(surplus * (count - kept) / hints), ceil(unanswered / hints))
        if asked <= 0:
            break
        prompts += asked
        kept += ceil(survival * min(asked * hints, unanswered))
    return prompts, min(kept, count)


def likely_topic_prompts(pack: Pack, *, examples: int, per_prompt: int) -> list[str]:
    """Return prompts like those of the topic rounds: the first round's own, and ones that show more topics."""
    seeds = seed_topics(pack)
    prompts: list[str] = []
    for topics in (seeds, _crossed(pack)):
        batch = topic_prompts(topics, round=1, seed=0, examples=examples, count=per_prompt)
        prompts += batch.column("prompt").to_pylist()
    return prompts


def likely_question_prompts(pack: Pack, *, examples: int, hints: int) -> list[str]:
    """Return prompts like those of the question rounds, with the seeds as examples."""
    topics, kept = _crossed(pack), seed_questions(pack)
    batch = question_prompts(topics, kept, pack, round=1, seed=0, examples=examples, hints=hints)
    return [row["prompt"] for row in batch.to_pylist() if len(row["topics"]) == row["examples"] + hints]


def likely_lines(pack: Pack, *, first: int) -> list[str]:
    """Return lines like those that answer a question prompt, made of the seeds; first: the number of each."""
    return [f"{first}. {hint(seed.topic, seed.question_type)}: {seed.question}\n" for seed in pack.seeds]


def _crossed(pack: Pack) -> pa.Table:
    """Return the topics of seeds for the types of others; where there are none, with a number behind them."""
    seeds = pack.seeds[:SHOWN_SEEDS]
    own = {(seed.topic, seed.question_type) for seed in seeds}
    topics, types = (dict.fromkeys(getattr(seed, name) for seed in seeds) for name in ("topic", "question_type"))
    pairs = [pair for pair in product(topics, types) if pair not in own]
    numbered = [(f"{topic} {number}", kind) for number in range(2, SHOWN_SEEDS) for topic, kind in own]
    rows = [
        {"id": content_id(kind, topic), "topic": topic, "question_type": kind, "origin": "generated", "round": 1}
        for topic, kind in (pairs if len(pairs) >= SHOWN_SEEDS else pairs + numbered)
    ]
    return pa.Table.from_pylist(rows, TOPICS)
