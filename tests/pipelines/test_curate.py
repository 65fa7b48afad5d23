"""Curate a table from end to end: triples with everything in them, what each step drops, bad input."""

import itertools
import random
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_step import do
from triples_to_curate import BAD, GOOD, HELD_OUT, write, write_held_out

from pipelines import curate, shards
from pipelines.runtime import entrypoint
from pipelines.runtime.stage import Stage
from schemas.command_line import WRONG_USE
from schemas.errors import StageError, UsageError
from schemas.settings import Layer, resolve
from schemas.tables import ALIGNER_ROWS, INSPECTOR_ROWS, TRIPLES
from transforms.tables.chunks import BatchCoder, ChunkCoder
from transforms.tables.identity import content_id
from transforms.tables.table import read_table


@pytest.fixture
def held_out(tmp_path) -> str:
    return write_held_out(tmp_path)


def config(source: str, **settings) -> curate.Config:
    settings = {"similarity": {"words": 2, "jaccard": 0.7}, "overlap_words": 9} | settings
    return resolve(curate.Config, [Layer("test", {"table": source, **settings})]).config


def curated(tmp_path, source: str, beam=(), **settings) -> Stage:
    return do(curate.KIND, config(source, **settings), tmp_path / "run", beam=beam)


def shards_of(tmp_path, stage: Stage, trainer: str) -> Stage:
    settings = shards.Config(data=stage.directory, trainer=trainer, rows_per_shard=50)
    return do(shards.KIND, settings, tmp_path / "run")


def rows_of(stage, name: str) -> list[dict]:
    return sorted(read_table(stage.directory, name).to_arrow().to_pylist(), key=str)


def test_triples_come_out_curated_with_every_drop_named(tmp_path, held_out):
    rows = [*GOOD, *BAD.values()]
    stage = curated(tmp_path, write(rows, tmp_path / "in"), heldout_files=(held_out,))
    assert stage.read_manifest()["counts"] == {"in": 294, "kept": 288, "drops": dict.fromkeys(BAD, 1), "rejects": {}}
    drops = {row["drop_reason"]: row for row in rows_of(stage, "drops")}
    assert {reason: row["id"] for reason, row in drops.items()} == {reason: row["id"] for reason, row in BAD.items()}
    assert drops["exact_duplicate"]["duplicate_of"] == GOOD[5]["id"]
    assert drops["near_duplicate"]["duplicate_of"] == GOOD[6]["id"]
    assert drops["leaked_near_duplicate"]["leaked_from"] == "held_out.jsonl:1"
    assert drops["leaked_overlap"]["leaked_from"] == "held_out.jsonl:2"
    assert drops["leaked_overlap"]["leaked_question"] == HELD_OUT[1]

    kept = rows_of(stage, "triples")
    by_id = {row["id"]: row for row in kept}
    assert sorted(by_id) == sorted(row["id"] for row in GOOD)
    assert {row["inspector_split"] for row in kept if row["identity"] or row["split"] != "train"} == {None}
    clusters: dict[str, set] = {}
    for row in kept:
        clusters.setdefault(row["cluster"], set()).add((row["split"], row["identity"] or row["inspector_split"]))
    assert all(len({split for split, _ in members}) == 1 for members in clusters.values())

    aligner = shards_of(tmp_path, stage, "aligner")
    for split in ("train", "validation", "test"):
        expected = sorted(row["id"] for row in kept if row["split"] == split)
        assert sorted(aligner.table(split).to_arrow().column("id").to_pylist()) == expected
    assert aligner.table("train").schema == ALIGNER_ROWS
    sizes = [shard["rows"] for shard in aligner.read_manifest()["tables"]["train"]["shards"]]
    assert len(sizes) > 3
    assert max(sizes) <= min(min(sizes) + 1, 50)
    pairs = shards_of(tmp_path, stage, "inspector").table("train").to_arrow()
    assert pairs.schema == INSPECTOR_ROWS
    assert sorted({name.split(":")[0] for name in pairs.column("id").to_pylist()}) == sorted(
        row["id"] for row in kept if row["inspector_split"] == "train"
    )
    assert pairs.column("label").to_pylist() == [0, 1] * (pairs.num_rows // 2)


def on_eight_workers(flink):
    return ["--direct_num_workers=8"]


def on_flink(flink):
    return [
        "--runner=FlinkRunner",
        f"--flink_job_server_jar={flink()}",
        "--environment_type=LOOPBACK",
        "--parallelism=2",
    ]


@pytest.mark.parametrize("arguments", [on_eight_workers, pytest.param(on_flink, marks=pytest.mark.slow)])
def test_shards_order_workers_and_runner_decide_nothing(tmp_path, held_out, flink_jar, arguments):
    rows = [*GOOD[::3], *BAD.values(), *(GOOD[n] | {"id": f"y{n}", "response": "Perhaps."} for n in range(0, 90, 7))]
    source = write(rows, tmp_path / "one", shards=1)
    one = curated(tmp_path, source, ["--direct_num_workers=1"], heldout_files=(held_out,))
    random.Random(4).shuffle(rows)
    source = write(rows, tmp_path / "many", shards=4, row_group=9)
    many = curated(tmp_path, source, arguments(flink_jar), heldout_files=(held_out,))
    assert one.directory != many.directory
    for name in ("triples", "drops"):
        assert rows_of(one, name) == rows_of(many, name)
    for trainer, split in itertools.product(("aligner", "inspector"), ("train", "validation", "test")):
        made = [shards_of(tmp_path, stage, trainer) for stage in (one, many)]
        tables = [stage.table(split).to_arrow().to_pylist() for stage in made]
        assert sorted(tables[0], key=str) == sorted(tables[1], key=str)


def test_near_duplicate_questions_never_straddle(tmp_path):
    """Many answers to few questions: all of them stay, and on one side."""
    rows = []
    for number in range(200):
        row = GOOD[number]
        question = GOOD[number % 20]["question"] + (" please", "", " thanks")[number % 3]
        rows.append(row | {"question": question})
    source = write(rows, tmp_path / "in")
    stage = curated(tmp_path, source, similarity={"words": 2, "jaccard": 0.85})
    kept = rows_of(stage, "triples")
    assert len(kept) == 200
    sides: dict[str, set] = {}
    for row in kept:
        sides.setdefault(row["question"].split("?")[0], set()).add((row["cluster"], row["split"]))
    assert len(sides) == 20
    assert all(len(side) == 1 for side in sides.values())
    assert len({split for side in sides.values() for _, split in side}) > 1


def test_rows_that_are_not_novel_name_one_that_stays(tmp_path):
    """By ROUGE-L, whatever the shards and their order; the first by id stays."""
    rows = [
        {"id": "a", "question": "What is the best way to thank a friend?"},
        {"id": "b", "question": "What is the best way to thank a neighbour?"},
        {"id": "c", "question": "Why do birds sing before the sun is up?"},
        {"id": "d", "question": "Is a cake the best way to thank a neighbour today, or not?"},
    ]
    schema = pa.schema({"id": pa.string(), "question": pa.string()})
    for number, order in enumerate([rows, rows[::-1]]):
        source = write(order, tmp_path / f"in{number}", shards=number + 1, schema=schema)
        stage = curated(tmp_path, source, similarity={"words": 2, "jaccard": 0.9}, max_rouge_l=0.7)
        drops = {row["id"]: (row["drop_reason"], row["duplicate_of"]) for row in rows_of(stage, "drops")}
        assert drops == {"b": ("not_novel", "a")}  # 2 * 8 / 18; d with a: 2 * 7 / 22


QUESTIONS = pa.schema({"id": pa.string(), "question": pa.string(), "topic": pa.string(), "score": pa.float64()})


def question(number: int, text: str, **more) -> dict:
    return {"id": f"{number:02d}", "question": text, "topic": None, "score": None} | more


@pytest.mark.parametrize(("keep", "kept"), [("first", "00"), ("longest", "02"), ("score", "01")])
def test_which_of_alike_rows_stays_is_a_choice(tmp_path, keep, kept):
    rows = [
        question(0, "May I ask who is there at the old door?", score=0.1),
        question(1, "may I ask who is there at the old door", score=0.9),
        question(2, "May I ask who is there at the old, old door???"),
    ]
    source = write(rows, tmp_path / "in", schema=QUESTIONS)
    stage = curated(tmp_path, source, keep=keep, minimum_yield=0.0)
    assert [row["id"] for row in rows_of(stage, "questions")] == [kept]
    assert kept in {row["duplicate_of"] for row in rows_of(stage, "drops")}


def test_quotas_hold_for_every_value_and_draw_the_same_whatever_the_order(tmp_path):
    rows = [question(n, f"{content_id(str(n))} what?", topic=(None, "cats", "dogs")[n % 3]) for n in range(60)]
    found = []
    for number, order in enumerate([rows, rows[::-1]]):
        source = write(order, tmp_path / f"in{number}", shards=number + 1, schema=QUESTIONS)
        stage = curated(tmp_path, source, quotas={"topic": 5})
        assert stage.read_manifest()["counts"]["drops"] == {"over_quota": 30}
        found.append([row["id"] for row in rows_of(stage, "questions")])
        assert Counter(row["topic"] for row in rows_of(stage, "questions")) == {None: 20, "cats": 5, "dogs": 5}
    assert found[0] == found[1]
    source = write(rows[:30], tmp_path / "less", schema=QUESTIONS)
    fewer = [row["id"] for row in rows_of(curated(tmp_path, source, quotas={"topic": 5}), "questions")]
    assert {name for name in found[0] if int(name) < 30} <= set(fewer)  # a row that was out stays out


def test_no_text_crosses_a_shuffle_whatever_is_asked_for(tmp_path, monkeypatch, minilm):
    encoded: list[bytes] = []
    for coder in (BatchCoder, ChunkCoder):

        def encode(self, value, encode=coder.encode):
            encoded.append(encode(self, value))
            return encoded[-1]

        monkeypatch.setattr(coder, "encode", encode)
    rows = [
        question(n, f"Why is {content_id(str(n % 20))} made of marmalade {'or jam' * (n % 3)}?", topic="marmalade")
        for n in range(60)
    ]
    asked = {"max_rouge_l": 0.9, "max_cosine": 0.99, "embedder": str(minilm), "quotas": {"topic": 5}, "keep": "longest"}
    stage = curated(tmp_path, write(rows, tmp_path / "in", schema=QUESTIONS), minimum_yield=0.0, **asked)
    assert stage.read_manifest()["counts"]["kept"] == 5
    assert len(encoded) > 20
    assert not any(b"marmalade" in message for message in encoded)


def test_added_rows_leave_splits_as_they_were(tmp_path):
    first = curated(tmp_path, write(GOOD[::2], tmp_path / "in"))
    second = curated(tmp_path, write(GOOD, tmp_path / "more"), previous=first.directory)
    sides = ("id", "split", "inspector_split", "cluster")
    now = {row["id"]: [row[side] for side in sides] for row in rows_of(second, "triples")}
    assert [now[row["id"]] for row in rows_of(first, "triples")] == [
        [row[side] for side in sides] for row in rows_of(first, "triples")
    ]
    with pytest.raises(UsageError, match=r"was split with other shares or another seed"):
        curated(tmp_path, write(GOOD, tmp_path / "again"), previous=first.directory, seed=5)
    with pytest.raises(UsageError, match="no column .*'cluster'"):
        curated(tmp_path, write(GOOD, tmp_path / "other"), previous=str(tmp_path / "in"))


def test_the_data_card_counts_and_shows_what_was_dropped(tmp_path, held_out):
    hostile = GOOD[0] | {"id": "x|`y", "question": "`</code><script>\n# a", "response": ""}
    stage = curated(tmp_path, write([*GOOD, *BAD.values(), hostile], tmp_path / "in"), heldout_files=(held_out,))
    card = (tmp_path / "run" / "curate" / stage.digest / "README.md").read_text()
    assert "295 rows came in, 288 were kept" in card
    splits = Counter(row["split"] for row in rows_of(stage, "triples"))
    assert f"| train | {splits['train']} |" in card
    assert "| `ethical` | 288 |" in card
    for reason in BAD:
        assert f"### {reason}\n" in card
    assert "- `x|\u02cby`: question `\u02cb</code><script> # a`; response (empty)" in card


def test_the_papers_rules_are_switched_on_in_its_recipe_alone(tmp_path):
    rows = [*GOOD[:20], GOOD[20] | {"correction": "Use a <b> naïve method."}]
    source = write(rows, tmp_path / "in")
    assert curated(tmp_path, source).read_manifest()["counts"]["drops"] == {}
    english = {"english_plain_text": True}
    drops = curated(tmp_path, source, validity=english).read_manifest()["counts"]["drops"]
    assert drops == {"markup": 1}


def test_a_complete_stage_is_left_alone_and_stays_below_its_floor(tmp_path):
    source = write([GOOD[0], *(GOOD[0] | {"id": f"{n}"} for n in range(4))], tmp_path / "in")
    stage = curated(tmp_path, source)
    manifest = tmp_path / "run" / "curate" / stage.digest / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert curated(tmp_path, source).directory == stage.directory
    for _ in range(2):
        with pytest.raises(StageError, match="1 of 5 rows survived, under the floor of 20%: 4 exact_duplicate"):
            curated(tmp_path, source, minimum_yield=0.2)
    assert manifest.stat().st_mtime_ns == before


def test_held_out_questions_may_be_tables_and_count_by_what_they_say(tmp_path, held_out):
    table = pa.table({"id": ["h1", "h2"], "question": HELD_OUT})
    pq.write_table(table, tmp_path / "tests.parquet")
    source = write([*GOOD[:20], BAD["leaked_overlap"]], tmp_path / "in")
    stage = curated(tmp_path, source, heldout=(str(tmp_path / "tests.parquet"),))
    assert [row["leaked_from"] for row in rows_of(stage, "drops")] == ["h2"]
    of_file = curated(tmp_path, source, heldout_files=(held_out,))
    assert [row["leaked_from"] for row in rows_of(of_file, "drops")] == ["held_out.jsonl:2"]
    assert curated(tmp_path, source).directory not in (stage.directory, of_file.directory)
    (tmp_path / "elsewhere").mkdir()
    assert curated(tmp_path, source, heldout_files=(write_held_out(tmp_path / "elsewhere"),)) == of_file


def test_columns_are_known_before_and_checked(tmp_path):
    schema = pa.schema(
        {"id": pa.string(), "question": pa.string(), "topic": pa.string(), "scores": pa.map_("str", "f8")}
    )
    tables = curate.KIND.gives(config("t"), {"table": schema})
    assert {name: table.names for name, table in tables.items()} == {
        "questions": ["id", "question", "topic", "scores", "split", "inspector_split", "cluster"],
        "drops": [
            *("id", "question", "topic", "scores"),
            *("drop_reason", "duplicate_of", "leaked_from", "leaked_question"),
        ],
    }
    assert curate.KIND.gives(config("t"), {}) == {}
    with pytest.raises(UsageError, match="table: quotas: column 'scores' holds no plain values"):
        curate.KIND.gives(config("t", quotas={"scores": 1}), {"table": schema})
    stage = curated(tmp_path, write(GOOD[:12], tmp_path / "in"))
    assert {name: stage.table(name).schema for name in ("triples", "drops")} == curate.KIND.gives(
        config("t"), {"table": TRIPLES}
    )


def test_bad_input_is_refused_before_any_work(tmp_path, capsys):
    source = write(GOOD[:3], tmp_path / "in")
    with pytest.raises(UsageError, match=r"no rule 'ascii'.*non_ascii"):
        config(source, validity={"skip": ("ascii",)})
    with pytest.raises(UsageError, match="quotas.topic: must be at least 1, not 0"):
        config(source, quotas={"topic": 0})
    with pytest.raises(UsageError, match="no column 'score'"):
        curated(tmp_path, source, keep="score")
    with pytest.raises(UsageError, match="keep: column 'topic' holds no numbers but string"):
        curated(tmp_path, source, keep="topic")
    with pytest.raises(UsageError, match="no column 'words'"):
        curated(tmp_path, source, validity={"words": {"words": (1, 2)}})
    with pytest.raises(UsageError, match=r"shares: must be three shares that make 1"):
        config(source, shares=(0.7, 0.15, 0.1))
    with pytest.raises(UsageError, match="max_pair_similarity: needs an encoder"):
        config(source, max_pair_similarity=0.9)
    with pytest.raises(UsageError, match="no column 'answer'"):
        curated(tmp_path, source, duplicate_columns=("answer",))
    with pytest.raises(UsageError, match="absent"):
        curated(tmp_path, str(tmp_path / "absent"))
    pq.write_table(pa.table({"id": ["1"], "question": ["Why?"], "split": ["x"]}), tmp_path / "taken.parquet")
    with pytest.raises(UsageError, match="'split' already"):
        curated(tmp_path, str(tmp_path / "taken.parquet"))
    pq.write_table(pa.table({"id": ["1"], "question": [["Why?"]]}), tmp_path / "lists.parquet")
    with pytest.raises(UsageError, match="'question' is not text but list"):
        curated(tmp_path, str(tmp_path / "lists.parquet"))
    with pytest.raises(UsageError, match="heldout: .* is the input itself"):
        curate.KIND.check(config(source, heldout_files=(source,)))
    with pytest.raises(UsageError, match="absent.jsonl: no such file"):
        curate.KIND.check(config(source, heldout_files=(str(tmp_path / "absent.jsonl"),)))
    shutil.copytree(source, tmp_path / "copy")
    with pytest.raises(StageError, match="0 of 3 rows survived, .* 3 leaked_near_duplicate"):
        curated(tmp_path, source, heldout_files=(str(tmp_path / "copy"),))
    taken = str(tmp_path / "lists.parquet")
    assert entrypoint.main(curate.KIND, None, [source, "-o", taken]) == WRONG_USE
    assert "lists.parquet: cannot write there" in capsys.readouterr().err


def test_three_rows_and_none(tmp_path):
    stage = curated(tmp_path, write(GOOD[:3], tmp_path / "three"))
    assert len(rows_of(stage, "triples")) == 3
    with pytest.raises(StageError, match="curate: not one of 0 rows is left: the inputs have none"):
        curated(tmp_path, write([], tmp_path / "none", shards=1))
