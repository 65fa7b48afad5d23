"""`alignbeam run`, with a scripted model: what is kept, what is asked again, and what is not."""

import json
import re

import pyarrow.compute as pc
import yaml
from recipe_runs import QUESTIONS, TRIPLES, scorer, scripted
from recipe_runs import questions as rows_of

from pipelines import questions, triples
from pipelines.commands import status
from pipelines.commands.run import main
from schemas.criteria.pack import load_pack
from schemas.errors import StageError
from schemas.settings import to_dict
from transforms.tables import shards
from transforms.tables.table import read_table

CURATED = {"stage": "curate", "table": "triples"}
SHARDS = {"stage": "shards", "data": "curated", "trainer": "aligner", "rows_per_shard": 16}


def words(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_from_a_pack_to_training_shards(runs):
    runs.recipe["steps"] |= {"curated": CURATED, "shards": SHARDS}
    assert runs() == 0
    rows = runs.table("questions")
    assert rows.num_rows == 60
    assert len(set(rows["question"].to_pylist())) == 60
    counts = runs.counts("triples")
    assert counts["in"] == 60 == counts["kept"] + sum(counts["drops"].values())
    assert counts["drops"]["missing_critique"] > 0
    split = runs.table("curated")["split"]
    assert set(split.to_pylist()) == {"train", "validation", "test"}
    train = read_table(str(runs.directory("shards")), "train")
    assert train.rows == pc.sum(pc.equal(split, "train")).as_py()
    assert max(shard.rows for shard in train.shards) <= 16
    assert len(runs.asked()) == len(set(runs.asked()))


def test_what_is_done_is_not_touched_again(runs, capsys):
    assert runs() == 0
    asked, written, about = len(runs.asked()), runs.change_times(), runs.about
    capsys.readouterr()
    assert runs() == 0
    assert (len(runs.asked()), runs.change_times(), runs.about) == (asked, written, about)
    assert words(capsys).startswith("questions 60 of 80 rows triples 52 of 60 rows step status in kept seconds")


def test_a_filter_downstream_asks_for_nothing(runs):
    assert runs() == 0
    asked, before = len(runs.asked()), runs.of_steps("directory")
    assert runs("--set", "steps.triples.english=true") == 0
    after = runs.of_steps("directory")
    assert after["questions"] == before["questions"]
    assert after["triples"] != before["triples"]
    assert len(runs.asked()) == asked


def test_a_demonstration_asks_only_for_what_depends_on_it(runs, tmp_path):
    pack = to_dict(load_pack("ethical"))
    (tmp_path / "pack.yaml").write_text(yaml.safe_dump(pack))
    runs.recipe["values"] = {"criterion": "pack.yaml"}
    for step in (runs.recipe["steps"]["questions"], runs.recipe["steps"]["triples"]):
        step["pack"] = "{criterion}"
    assert runs() == 0
    asked, before = len(runs.asked()), runs.of_steps("directory")
    pack["demonstrations"][0]["correction"] += " And be kind."
    (tmp_path / "pack.yaml").write_text(yaml.safe_dump(pack))
    assert runs() == 0
    assert runs.of_steps("directory")["questions"] == before["questions"]
    assert len(runs.asked()) == asked + 60


def test_a_larger_limit_extends(runs):
    assert runs("--limit", "30") == 0
    assert runs.counts("triples")["in"] == 30
    ids, asked = set(runs.table("questions")["id"].to_pylist()), set(runs.asked())
    assert runs() == 0
    assert ids < set(runs.table("questions")["id"].to_pylist())
    assert asked < set(runs.asked())
    assert len(runs.asked()) == len(set(runs.asked()))


def test_shard_size_and_workers_change_nothing(runs, monkeypatch):
    assert runs() == 0
    rows, asked = runs.table("triples"), set(runs.asked())
    monkeypatch.setattr(questions, "SHARD_ROWS", 7)
    monkeypatch.setattr(shards, "CHUNK_ROWS", 5)
    runs.output = "other"
    assert runs("--", "--direct_num_workers=3") == 0
    assert len(read_table(str(runs.directory("triples"))).shards) == 9
    assert runs.table("triples").equals(rows)
    assert set(runs.asked()) == asked


def test_equal_steps_are_done_once(runs):
    runs.recipe["steps"]["again"] = TRIPLES
    assert runs() == 0
    assert runs.of_steps("directory")["again"] == runs.of_steps("directory")["triples"]
    assert len(runs.asked()) == len(set(runs.asked()))
    assert runs.of_steps("status") == {"questions": "done", "triples": "done", "again": "done"}


def test_an_independent_draw_needs_a_seed(runs):
    runs.recipe["steps"]["again"] = {**QUESTIONS, "seed": 1}
    assert runs() == 0
    first, second = (set(runs.table(name)["question"].to_pylist()) for name in ("questions", "again"))
    assert len(first & second) < 60
    identities = runs.of_steps("identity")
    assert (identities["questions"]["seed"], identities["again"]["seed"]) == (0, 1)


def test_too_few_topics_are_told_with_what_to_set(runs, capsys):
    assert runs("--until", "questions", "--set", "steps.questions.count=500") == 0
    assert re.search(
        r"questions: (\d+) of the 500 asked for: there are \1 topics, and each gets one question; "
        r"raise topic_rounds \(now 1\) or topics_per_type \(now without limit\)",
        words(capsys),
    )


def test_too_small_a_yield_stops_loudly_each_time(runs, capsys):
    floor = ("--set", "steps.triples.minimum_yield=0.99")
    runs.recipe["steps"]["curated"] = CURATED
    for flags in ([], [], ["--keep-going"], ["--only", "triples"]):
        assert runs(*floor, *flags) == 1
        assert re.search(
            r"triples: \d+ of 60 rows survived, under the floor of 99%: \d+ missing_critique", words(capsys)
        )
        assert runs.of_steps("status") == {"questions": "done", "triples": "failed", "curated": "to do"}
    assert runs(*floor, "--only", "curated") == 2
    assert "curated: its input triples is not complete (failed: triples: 52 of 60 rows survived" in words(capsys)
    assert runs() == 0


def test_a_table_of_no_rows_is_a_failure_with_its_reasons(runs, capsys):
    runs.recipe["models"]["mute"] = scripted("mute")
    runs.recipe["steps"] = {
        "questions": QUESTIONS,
        "answers": {"stage": "respond", "questions": "questions", "model": "mute", "minimum_yield": -1},
        "more": {"stage": "respond", "questions": "answers", "model": "teacher"},
    }
    for _ in range(2):
        assert runs() == 1
        assert "answers: not one of 60 rows is left: 60 empty_response" in words(capsys)
        assert runs.of_steps("status") == {"questions": "done", "answers": "failed", "more": "to do"}
    assert status.main([str(runs.run)]) == 1


def test_what_was_edited_is_said_by_each_step_that_it_touches(runs, tmp_path, capsys):
    pack = to_dict(load_pack("ethical"))
    (tmp_path / "pack.yaml").write_text(yaml.safe_dump(pack))
    for step in runs.recipe["steps"].values():
        step["pack"] = "pack.yaml"

    def stale(*flags):
        assert runs(*flags) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "stale:" in line]

    assert stale() == []
    assert stale("--only", "questions") == []
    hints = ("--set", "steps.questions.hints=4")
    assert stale("--only", "questions", *hints) == [
        "  stale: hints: 5 → 4; done again, with every completion that still fits"
    ]
    assert runs.of_steps("status") == {"questions": "done", "triples": "done"}  # the same questions came out
    pack["demonstrations"][0]["correction"] += " And be kind."
    (tmp_path / "pack.yaml").write_text(yaml.safe_dump(pack))
    assert stale("--only", "questions", *hints) == []
    assert runs.of_steps("status")["triples"] == "stale"
    assert runs.of_steps("because")["triples"] == ["the criterion pack changed"]
    [said] = stale("--only", "triples", *hints, "--set", "steps.triples.english=true")
    assert said.startswith("  stale: english: False → True, the criterion pack changed; done again")
    assert status.main([str(runs.run)]) == 0


def test_a_step_is_listed_from_its_beginning_and_interrupted(runs, monkeypatch, capsys):
    shown = []

    def interrupted(*_):
        assert status.main([str(runs.run)]) == 0
        shown.append(capsys.readouterr().out)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(questions, "collect_topics", interrupted)
        assert runs() == 130
    assert re.search(r"^questions +running.*\n  triples +to do", shown[0], re.MULTILINE)
    assert runs.of_steps("status") == {"questions": "interrupted", "triples": "to do"}
    assert status.main([str(runs.run)]) == 0
    assert re.search(r"^questions +interrupted", capsys.readouterr().out, re.MULTILINE)
    assert runs() == 0
    assert runs.of_steps("status") == {"questions": "done", "triples": "done"}


def test_a_step_that_fails_at_once_is_listed_as_failed(runs, monkeypatch, capsys):
    def broken(*_, **__):
        raise StageError("no")

    monkeypatch.setattr(triples, "triple_prompts", broken)
    assert runs() == 1
    assert status.main([str(runs.run)]) == 1
    assert re.search(r"^questions +done(.*\n)+  triples +failed", capsys.readouterr().out, re.MULTILINE)
    assert (runs.run / "report.html").is_file()


def test_the_secrets_of_urls_are_written_nowhere(runs, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    runs.recipe["steps"]["heldout"] = {"stage": "import", "corpus": "http://me:hushed@h/q.jsonl?sig=hushed"}
    runs.recipe["models"]["far"] = {"engine": "server", "model": "m", "base_url": "http://h:1/v1"}
    assert runs("--only", "questions") == 0
    assert runs.about["recipe"]["steps"]["heldout"]["corpus"] == "http://***@h/q.jsonl?sig=***"
    texts = [path.read_bytes() for path in runs.run.rglob("*") if path.is_file()]
    assert texts
    assert not any(b"hushed" in text for text in texts)


def test_the_file_of_a_run_says_what_was_done(runs):
    assert runs("--set", "seed=5") == 0
    about = runs.about
    assert (about["name"], about["seed"], about["toy"]) == ("test", 5, False)
    assert about["recipe"]["steps"]["triples"] == TRIPLES
    assert about["models"] == {"questions model": "", "triples model": ""}
    assert [(entry["stage"], entry["kind"], entry["inputs"]) for entry in about["stages"]] == [
        ("questions", "questions", []),
        ("triples", "triples", ["questions"]),
    ]
    for entry in about["stages"]:
        pointer = json.loads((runs.run / "steps" / f"{entry['stage']}.json").read_text())
        assert pointer == {name: entry[name] for name in ("kind", "directory", "digest")}
        assert entry["directory"] == f"{entry['kind']}/{entry['digest']}"
        assert (runs.run / entry["directory"] / "manifest.json").is_file()


def test_the_same_responses_are_aligned_twice(runs):
    runs.write_rows("q.jsonl", *rows_of("What is a cat?", "What is a dog?"))
    members = [{"criterion": "vowels", "inspector": "judge", "aligner": "aligner", "threshold": 0.0}]
    align = {"stage": "align", "responses": "answers", "members": members}
    runs.recipe["models"] |= {"judge": scorer("vowels"), "aligner": scripted("aligner")}
    runs.recipe["steps"] = {
        "heldout": {"stage": "import", "corpus": "q.jsonl", "kind": "questions"},
        "answers": {"stage": "respond", "questions": "heldout", "model": "teacher"},
        "raw": {**align, "every_row": True, "guard": False},
        "guarded": align,
        "evaluation": {"stage": "evaluate", "aligned": {"raw": "raw", "guarded": "guarded"}, "inspectors": ["judge"]},
    }
    assert runs() == 0
    assert runs.table("raw")["decision"].to_pylist() == ["rewritten"] * 2
    assert runs.table("guarded")["decision"].to_pylist() == ["above_threshold"] * 2
    assert runs.table("raw")["response"].equals(runs.table("guarded")["response"])
    assert len(runs.asked()) == 2 + 2
    assert runs.table("evaluation")["label"].to_pylist() == ["raw", "guarded"]


def test_a_recipe_that_comes_along_is_run_by_its_name(tmp_path, capsys):
    assert main(["one_criterion", "-o", str(tmp_path / "run"), "--print-steps"]) == 2
    assert "models.teacher.model: names no model; give one here or with --model NAME=ID" in words(capsys)
    flags = ["--model", "teacher=B/m", "--model", "B/n"]
    assert main(["one_criterion", "-o", str(tmp_path / "run"), "--print-steps", *flags]) == 0
    assert "questions: questions" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
