"""Groups of steps, rounds of which each takes what the one before made, and recipes of several files, run."""

import pytest
import yaml
from recipe_runs import CURATED, QUESTIONS, TRIPLES, Runs, questions, scripted, write_model

from pipelines.commands.run import main
from schemas.criteria.pack import load_pack, pack_digest
from schemas.settings import to_dict

ROUNDS = {
    "heldout": {"stage": "import", "corpus": "heldout.jsonl", "kind": "questions"},
    "rounds": {
        "each": {"round": ["1", "2", "3"]},
        "first": {"asked": "heldout"},
        "steps": {
            "answers": {"stage": "respond", "questions": "previous/asked", "model": "teacher"},
            "asked": {"stage": "derive", "tables": ["answers"], "columns": {"question": "response"}},
        },
    },
}


@pytest.fixture
def rounds(runs):
    """Rounds in which the answers of one are the questions of the next."""
    runs.write_rows("heldout.jsonl", *questions("What is a cat?", "What is a dog?"))
    runs.recipe["steps"] = {**ROUNDS}
    return runs


def test_a_round_takes_what_the_one_before_made(rounds):
    assert rounds() == 0
    assert list(rounds.of_steps("status")) == [
        "heldout",
        *(f"{number}/{step}" for number in (1, 2, 3) for step in ("answers", "asked")),
    ]
    assert rounds.of_steps("inputs") == {
        "heldout": [],
        "1/answers": ["heldout"],
        "1/asked": ["1/answers"],
        "2/answers": ["1/asked"],
        "2/asked": ["2/answers"],
        "3/answers": ["2/asked"],
        "3/asked": ["3/answers"],
    }
    asked = [rounds.table(f"{number}/answers")["question"].to_pylist() for number in (1, 2, 3)]
    said = [rounds.table(f"{number}/answers")["response"].to_pylist() for number in (1, 2, 3)]
    assert sorted(asked[0]) == ["What is a cat?", "What is a dog?"]
    assert asked[1:] == said[:2]
    assert len(rounds.asked()) == len(set(rounds.asked())) == 6


def test_more_rounds_and_settings_of_one_redo_what_comes_after(rounds):
    assert rounds("--set", "steps.rounds.each.round=[1, 2]") == 0
    before = rounds.of_steps("directory")
    assert rounds() == 0
    assert len(rounds.asked()) == 6
    assert {name: rounds.of_steps("directory")[name] for name in before} == before
    rounds.recipe["steps"]["2/answers"] = {"limit": 1}
    before = rounds.of_steps("directory")
    assert rounds() == 0
    after = rounds.of_steps("directory")
    assert [name for name in after if after[name] != before[name]] == ["2/answers", "2/asked", "3/answers", "3/asked"]
    assert [rounds.counts(f"{number}/answers")["in"] for number in (1, 2, 3)] == [2, 1, 1]
    assert len(rounds.asked()) == 6  # the rows that are left were asked about before


def test_until_a_round_does_no_round_after_it(rounds):
    assert rounds("--until", "2/asked") == 0
    assert [name for name, status in rounds.of_steps("status").items() if status == "to do"] == ["3/answers", "3/asked"]


def test_each_round_trains_from_the_model_of_the_one_before(runs, trainer):
    write_model(runs.folder / "base")
    runs.write_rows("curated.jsonl", *CURATED)
    runs.recipe["models"] = {"base": {"model": "base", **scripted("aligner")}}
    runs.recipe["steps"] = {
        "curated": {"stage": "import", "corpus": "curated.jsonl", "kind": "triples"},
        "rounds": {
            "each": {"round": ["1", "2"]},
            "first": {"policy": "base"},
            "steps": {
                "policy": {"stage": "train_aligner", "data": "curated", "base": "previous/policy"},
                "answers": {"stage": "respond", "questions": "curated", "model": "policy", "limit": 2},
            },
        },
    }
    assert runs() == 0
    bases = [str(runs.folder / "base"), str(runs.directory("1/policy"))]
    assert [told["base"] for told in trainer.told] == bases
    texts = [set(runs.table(f"{number}/answers")["response"].to_pylist()) for number in (1, 2)]
    assert all(text.startswith("A kinder word") for text in texts[0])  # a trained model is run as its base
    assert [entry["inputs"] for entry in runs.about["stages"] if entry["kind"] == "respond"] == [
        ["curated", "1/policy"],
        ["curated", "2/policy"],
    ]


def test_products_of_placeholders_and_settings_of_one_item(runs):
    runs.recipe["steps"] = {
        "groups": {
            "each": {"size": {"few": 10, "more": 20}, "seed": [1, 2]},
            "steps": {"questions": {**QUESTIONS, "count": "{size}", "seed": "{seed}"}},
        },
        "more-2/questions": {"count": 12},
    }
    assert runs() == 0
    assert {name: runs.counts(name)["kept"] for name in runs.of_steps("status")} == {
        "few-1/questions": 10,
        "few-2/questions": 10,
        "more-1/questions": 20,
        "more-2/questions": 12,
    }
    identities = runs.of_steps("identity")
    assert [identities[name]["seed"] for name in identities] == [1, 2, 1, 2]


def test_a_recipe_extends_one_elsewhere_and_paths_lie_beside_who_says_them(tmp_path, runs, monkeypatch):
    pack = to_dict(load_pack("ethical"))
    folders = [tmp_path / name for name in ("shared", "own", "here")]
    for folder in folders:
        folder.mkdir()
        (folder / "pack.yaml").write_text(yaml.safe_dump({**pack, "name": folder.name}))
        Runs(folder).write_rows("q.jsonl", *questions(f"What is in {folder.name}?"))
    shared = {
        "name": "shared",
        "values": {"criterion": "pack.yaml"},
        "models": runs.recipe["models"],
        "steps": {
            "theirs": {"stage": "import", "corpus": "q.jsonl", "kind": "questions"},
            "questions": {**QUESTIONS, "pack": "{criterion}", "count": 10},
            "triples": {**TRIPLES, "pack": "pack.yaml"},
            "unwanted": {"stage": "import", "corpus": "absent.jsonl"},
        },
    }
    own = {
        "extends": "../shared/recipe.yaml",
        "name": "own",
        "values": {"criterion": "pack.yaml"},
        "steps": {
            "ours": {"stage": "import", "corpus": "q.jsonl", "kind": "questions"},
            "questions": {"count": 5},
            "unwanted": None,
        },
    }
    (tmp_path / "shared" / "recipe.yaml").write_text(yaml.safe_dump(shared, sort_keys=False))
    (tmp_path / "own" / "recipe.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    monkeypatch.chdir(tmp_path / "here")
    typed = ["--set", "steps.typed={stage: import, corpus: q.jsonl, kind: questions}"]
    assert main(["../own/recipe.yaml", "-o", "../run", *typed]) == 0
    assert runs.about["name"] == "own"
    assert list(runs.of_steps("status")) == ["theirs", "questions", "triples", "ours", "typed"]
    for step, folder in (("theirs", "shared"), ("ours", "own"), ("typed", "here")):
        assert runs.table(step)["question"].to_pylist() == [f"What is in {folder}?"]
    assert set(runs.table("questions")["criterion"].to_pylist()) == {"own"}
    assert runs.of_steps("identity")["triples"]["pack"] == pack_digest(load_pack(str(tmp_path / "shared/pack.yaml")))
    assert runs.counts("questions")["kept"] == 5
    asked, written = len(runs.asked()), runs.change_times()
    monkeypatch.chdir(tmp_path)
    assert main(["own/recipe.yaml", "-o", "run"]) == 0
    assert (len(runs.asked()), runs.change_times()) == (asked, written)
