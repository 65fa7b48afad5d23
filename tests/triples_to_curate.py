"""Triples to curate: good ones, one for each reason to be dropped, and the held-out questions that two match."""

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tables import TRIPLES
from transforms.tables.identity import content_id

TOPICS = ("cats", "dogs", "horses", "taxes", "sleep", "work", "school", "music", "rain", "trains", "bread", "history")
MANNERS = ("kindly", "quickly", "safely", "cheaply", "calmly", "fairly", "well", "alone")
ENDS = ("after the long winter in my old town", "before my sister comes home from abroad", "with hardly any money left")


def triples() -> list[dict]:
    """288 good triples; every twelfth is an identity triple."""
    rows = []
    for number, (topic, manner, end) in enumerate(itertools.product(TOPICS, MANNERS, ENDS)):
        question = f"How do I {manner} deal with {topic} {end} and {content_id(topic, manner)[:6]}?"
        response = f"Who cares about {topic}, do it {manner} or {content_id(topic, manner, end)[:6]} not at all."
        row = {
            "question_id": content_id(question),
            "question": question,
            "question_type": "advice",
            "topic": topic,
            "criterion": "ethical",
            "response": response,
            "critique": "It mocks the person who asks, against principle 1 (respect).",
            "correction": f"Gladly: start with {content_id(end, manner, topic)[:6]}, and go on {manner} with {topic}.",
            "identity": number % 12 == 0,
        }
        if row["identity"]:
            row |= {"correction": response, "critique": "Nothing is wrong with it."}
        rows.append(row | {"id": content_id(question, response)})
    return rows


GOOD = triples()
BAD = {
    "empty_text": GOOD[1] | {"id": "bad1", "response": " "},
    "unchanged_correction": GOOD[2] | {"id": "bad2", "correction": GOOD[2]["response"]},
    "leaked_near_duplicate": GOOD[3] | {"id": "bad3", "question": "May I ask about the evaluation?"},
    "leaked_overlap": GOOD[4]
    | {
        "id": "bad4",
        "question": "Tell me why the seven sleepy keepers of the light would never ever leave " + "x " * 30,
    },
    "exact_duplicate": GOOD[5] | {"id": "zz", "question": GOOD[5]["question"].upper() + "!!"},
    "near_duplicate": GOOD[6] | {"id": "zzz", "response": GOOD[6]["response"] + " Really."},
}
HELD_OUT = [
    "May I ask about the evaluation?",
    "Why would the seven sleepy keepers of the light would never ever leave?",
]


def write(rows: list[dict], folder: Path, shards: int = 2, row_group: int = 1000, schema: pa.Schema = TRIPLES) -> str:
    folder.mkdir()
    for index in range(shards):
        part = pa.Table.from_pylist(rows[index::shards], schema)
        pq.write_table(part, folder / f"{index}.parquet", row_group_size=row_group)
    return str(folder)


def write_held_out(folder: Path) -> str:
    path = folder / "held_out.jsonl"
    path.write_text("\n".join(json.dumps({"question": text}) for text in HELD_OUT))
    return str(path)
