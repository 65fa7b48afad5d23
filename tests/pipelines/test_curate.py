"""Curate from end to end: real questions, triples with everything in them, bad input."""

import csv
import gzip
import itertools
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import curate
from schemas.command_line import DONE, FAILED, WRONG_USE
from schemas.config import Layer, resolve
from schemas.errors import StageError, UsageError
from schemas.tables import ALIGNER_ROWS, INSPECTOR_ROWS, TRIPLES
from transforms.identity import content_id
from transforms.tables import read_manifest, read_table

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


def write(rows: list[dict], folder, shards: int = 2, row_group: int = 1000) -> str:
    folder.mkdir()
    for index in range(shards):
        part = pa.Table.from_pylist(rows[index::shards], TRIPLES)
        pq.write_table(part, folder / f"{index}.parquet", row_group_size=row_group)
    return str(folder)


@pytest.fixture
def held_out(tmp_path) -> str:
    path = tmp_path / "held_out.jsonl"
    path.write_text("\n".join(json.dumps({"question": text}) for text in HELD_OUT))
    return str(path)


def config(tmp_path, source: str, **settings) -> curate.Config:
    settings = {"similarity": {"words": 2, "jaccard": 0.7}, "overlap_words": 9, "rows_per_shard": 50} | settings
    values = {"input": source, "output": str(tmp_path / "run"), **settings}
    return resolve(curate.Config, [Layer("test", values)]).config


def rows_of(stage, name: str) -> list[dict]:
    return sorted(read_table(stage.directory, name).to_arrow().to_pylist(), key=str)


def test_triples_come_out_curated_with_every_drop_named(tmp_path, held_out):
    rows = [*GOOD, *BAD.values()]
    stage = curate.run(config(tmp_path, write(rows, tmp_path / "in"), heldout=(held_out,)))
    assert stage.manifest["counts"] == {"in": 294, "kept": 288, "drops": dict.fromkeys(BAD, 1), "rejects": {}}
    drops = {row["drop_reason"]: row for row in rows_of(stage, "drops")}
    assert {reason: row["id"] for reason, row in drops.items()} == {reason: row["id"] for reason, row in BAD.items()}
    assert drops["exact_duplicate"]["duplicate_of"] == GOOD[5]["id"]
    assert drops["near_duplicate"]["duplicate_of"] == GOOD[6]["id"]
    assert drops["leaked_near_duplicate"]["leaked_from"] == "held_out.jsonl:1"
    assert drops["leaked_overlap"]["leaked_from"] == "held_out.jsonl:2"

    kept = rows_of(stage, "triples")
    by_id = {row["id"]: row for row in kept}
    assert sorted(by_id) == sorted(row["id"] for row in GOOD)
    assert {row["inspector_split"] for row in kept if row["identity"] or row["split"] != "train"} == {None}
    clusters: dict[str, set] = {}
    for row in kept:
        clusters.setdefault(row["cluster"], set()).add((row["split"], row["identity"] or row["inspector_split"]))
    assert all(len({split for split, _ in members}) == 1 for members in clusters.values())

    aligner = f"{stage.directory}/aligner"
    for split in ("train", "validation", "test"):
        expected = sorted(row["id"] for row in kept if row["split"] == split)
        assert sorted(read_table(aligner, split).to_arrow().column("id").to_pylist()) == expected
    assert read_table(aligner, "train").schema == ALIGNER_ROWS
    sizes = [shard["rows"] for shard in read_manifest(aligner)["tables"]["train"]["shards"]]
    assert len(sizes) > 3
    assert max(sizes) <= min(min(sizes) + 1, 50)
    pairs = read_table(f"{stage.directory}/inspector", "train").to_arrow()
    assert pairs.schema == INSPECTOR_ROWS
    assert sorted({name.split(":")[0] for name in pairs.column("id").to_pylist()}) == sorted(
        row["id"] for row in kept if row["inspector_split"] == "train"
    )
    assert pairs.column("label").to_pylist() == [0, 1] * (pairs.num_rows // 2)


def test_shards_and_order_decide_nothing(tmp_path, held_out):
    rows = [*GOOD[::3], *BAD.values(), *(GOOD[n] | {"id": f"y{n}", "response": "Perhaps."} for n in range(0, 90, 7))]
    one = curate.run(config(tmp_path, write(rows, tmp_path / "one", shards=1), heldout=(held_out,)))
    random.Random(4).shuffle(rows)
    source = write(rows, tmp_path / "many", shards=4, row_group=9)
    many = curate.run(config(tmp_path, source, heldout=(held_out,)), ["--direct_num_workers=2"])
    assert one.directory != many.directory
    for name in ("triples", "drops"):
        assert rows_of(one, name) == rows_of(many, name)
    for trainer, split in itertools.product(("aligner", "inspector"), ("train", "validation", "test")):
        tables = [read_table(f"{stage.directory}/{trainer}", split).to_arrow().to_pylist() for stage in (one, many)]
        assert sorted(tables[0], key=str) == sorted(tables[1], key=str)


def test_near_duplicate_questions_never_straddle(tmp_path):
    """Many answers to few questions: all of them stay, and on one side."""
    rows = []
    for number in range(200):
        row = GOOD[number]
        question = GOOD[number % 20]["question"] + (" please", "", " thanks")[number % 3]
        rows.append(row | {"question": question})
    source = write(rows, tmp_path / "in")
    stage = curate.run(config(tmp_path, source, similarity={"words": 2, "jaccard": 0.85}))
    kept = rows_of(stage, "triples")
    assert len(kept) == 200
    sides: dict[str, set] = {}
    for row in kept:
        sides.setdefault(row["question"].split("?")[0], set()).add((row["cluster"], row["split"]))
    assert len(sides) == 20
    assert all(len(side) == 1 for side in sides.values())
    assert len({split for side in sides.values() for _, split in side}) > 1


def test_the_papers_rules_are_switched_on_in_its_recipe_alone(tmp_path):
    rows = [*GOOD[:20], GOOD[20] | {"correction": "Use a <b> naïve method."}]
    source = write(rows, tmp_path / "in")
    assert curate.run(config(tmp_path, source)).manifest["counts"]["drops"] == {}
    drops = curate.run(config(tmp_path, source, english_plain_text=True)).manifest["counts"]["drops"]
    assert drops == {"markup": 1}


def test_a_complete_stage_is_left_alone_and_lost_shards_are_written_again(tmp_path):
    settings = config(tmp_path, write(GOOD[:40], tmp_path / "in"))
    stage = curate.run(settings)
    manifest = tmp_path / "run" / "curate" / stage.digest / "manifest.json"
    before = manifest.stat().st_mtime_ns
    (manifest.parent / "aligner" / "manifest.json").unlink()
    curate.run(settings)
    assert manifest.stat().st_mtime_ns == before
    assert (manifest.parent / "aligner" / "manifest.json").exists()


def test_real_questions(tmp_path, data):
    stage = curate.run(curate.Config(input=write_head(data, tmp_path, 1500), output=str(tmp_path / "run")))
    counts = stage.manifest["counts"]
    assert counts["in"] == 1500
    assert counts["drops"]["exact_duplicate"] == 1500 - counts["kept"] - counts["drops"].get("near_duplicate", 0)
    splits = [row["split"] for row in rows_of(stage, "questions")]
    assert 0.65 < splits.count("train") / len(splits) < 0.75


def write_head(data, tmp_path, rows: int) -> str:
    """The first questions of the real file, and every tenth of them again."""
    with gzip.open(data / "questions" / "ethical.csv.gz", "rt", newline="") as file:
        lines = [row["input"] for row in itertools.islice(csv.DictReader(file), rows - rows // 11)]
    path = tmp_path / "questions.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["input"], *([line] for line in lines + lines[: rows // 11])])
    return str(path)


def test_command_line(tmp_path, held_out):
    settings = tmp_path / "curate.yaml"
    settings.write_text("similarity: {words: 2, jaccard: 0.7}\noverlap_words: 9\n")
    source = write([*GOOD[:30], *BAD.values()], tmp_path / "in")
    output = tmp_path / "run"
    common = [source, "-o", str(output), "--config", str(settings), "--heldout", held_out]
    assert curate.main(common) == DONE
    assert len(list(output.glob("curate/*/aligner/train/*.parquet"))) == 1
    assert curate.main([*common, "--set", "similarity.jaccard=1.5"]) == WRONG_USE
    assert curate.main([*common, "--minimum-yield", "0.99"]) == FAILED


def test_bad_input_is_refused_before_any_work(tmp_path):
    source = write(GOOD[:3], tmp_path / "in")
    with pytest.raises(UsageError, match=r"no rule 'ascii'.*non_ascii"):
        config(tmp_path, source, skip_rules=("ascii",))
    with pytest.raises(UsageError, match=r"shares: must be three shares that make 1"):
        config(tmp_path, source, shares=(0.7, 0.15, 0.1))
    with pytest.raises(UsageError, match="max_pair_similarity: needs an encoder"):
        config(tmp_path, source, max_pair_similarity=0.9)
    with pytest.raises(UsageError, match="no column 'answer'"):
        curate.run(config(tmp_path, source, duplicate_columns=("answer",)))
    with pytest.raises(UsageError, match="absent"):
        curate.run(config(tmp_path, str(tmp_path / "absent")))
    pq.write_table(pa.table({"id": ["1"], "question": ["Why?"], "split": ["x"]}), tmp_path / "taken.parquet")
    with pytest.raises(UsageError, match="'split' already"):
        curate.run(config(tmp_path, str(tmp_path / "taken.parquet")))
    pq.write_table(pa.table({"id": ["1"], "question": [["Why?"]]}), tmp_path / "lists.parquet")
    with pytest.raises(UsageError, match="'question' is not text but list"):
        curate.run(config(tmp_path, str(tmp_path / "lists.parquet")))
    with pytest.raises(StageError, match="0 of 3 rows survived"):
        curate.run(config(tmp_path, source, heldout=(source,)))


def test_three_rows_and_none(tmp_path):
    stage = curate.run(config(tmp_path, write(GOOD[:3], tmp_path / "three")))
    assert len(rows_of(stage, "triples")) == 3
    stage = curate.run(config(tmp_path, write([], tmp_path / "none", shards=1)))
    assert stage.manifest["counts"] == {"in": 0, "kept": 0, "drops": {}, "rejects": {}}
