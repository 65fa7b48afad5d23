"""Recipes of before as recipes of named steps."""

import pytest
import yaml

from pipelines.recipe.old_form import new_form
from pipelines.recipe.read import read_recipe
from pipelines.recipe.unroll import unroll

INPUTS = ("questions", "model", "table", "heldout", "data", "base", "responses", "members", "aligned", "inspectors")
INPUTS += ("pair_ranker", "two_way", "tables", "embedder", "previous")


def converted(old: dict) -> dict:
    """Return the new form of an old recipe, which must unroll, with names that are all there."""
    recipe = yaml.safe_load(new_form(old))
    problems = []
    unrolled = unroll(read_recipe(recipe, problems), problems)
    assert problems == []
    for step in unrolled.steps.values():
        for name in names_in([step.settings[key] for key in INPUTS if key in step.settings]):
            unrolled.look_up(name, step)
    for model in unrolled.models.values():
        assert "step" not in model or unrolled.look_up(model["step"])
    return recipe


def names_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from names_in([item for key, item in value.items() if key not in ("criterion", "threshold")])
    else:
        for item in value:
            yield from names_in(item)


def test_one_criterion_with_nothing_set():
    assert converted({"name": "n", "criterion": "ethical", "models": {"teacher": {"model": "t"}}}) == {
        "name": "n",
        "models": {
            "teacher": {"model": "t"},
            "upstream": {},
            "encoder": {"model": "bert-base-uncased"},
            "base": {"model": "gpt2-large"},
        },
        "steps": {
            "questions": {"stage": "questions", "model": "teacher", "pack": "ethical"},
            "triples": {"stage": "triples", "questions": "questions", "model": "teacher", "pack": "ethical"},
            "curated": {"stage": "curate", "table": "triples"},
            "inspector": {"stage": "train_inspector", "data": "curated", "seed": 42, "base": "encoder"},
            "aligner": {"stage": "train_aligner", "data": "curated", "seed": 42, "base": "base"},
            "tests": {
                "stage": "derive",
                "tables": ["curated"],
                "columns": {"question": "question"},
                "where": {"split": ["test"]},
            },
            "responses": {"stage": "respond", "questions": "tests", "model": "upstream"},
            "aligned": {
                "stage": "align",
                "responses": "responses",
                "members": [{"criterion": "ethical", "inspector": "inspector", "aligner": "aligner"}],
                "routing": "fixed",
            },
            "evaluation": {"stage": "evaluate", "aligned": "aligned", "inspectors": {"ethical": "inspector"}},
        },
    }


def test_one_criterion_with_everything_set():
    old = {
        "name": "n",
        "criterion": "packs/tidy.yaml",
        "seed": 7,
        "toy": True,
        "heldout": "asked.jsonl",
        "models": {
            "teacher": {"model": "t"},
            "upstream": {"model": "u"},
            "aligner": {"args": {"dtype": "float32"}},
        },
        "stages": {
            "questions": {"count": 5},
            "triples": {"sampling": {"stop": ["\nInput:"]}},
            "curate": {
                "heldout": ["a.csv", "b.csv"],
                "heldout_column": "q",
                "embedder": "enc",
                "rows_per_shard": 7,
                "previous": "old/curate",
            },
            "train_inspector": {"base": "reader", "epochs": 2},
            "train_aligner": {"base": "small", "seed": 1},
            "respond": {"limit": 3},
            "align": {"threshold": 0.6, "every_row": True, "compare": {"every_row": False, "threshold": 0.4}},
            "evaluate": {
                "inspector": ["judge=made/judge", "made/aligned"],
                "pair_ranker": "ranker",
                "two_way": ["x/bbq.jsonl"],
            },
        },
    }
    assert converted(old) == {
        "name": "n",
        "seed": 7,
        "toy": True,
        "models": {
            "teacher": {"model": "t"},
            "upstream": {"model": "u"},
            "encoder": {"model": "reader"},
            "base": {"model": "small"},
            "embedder": {"model": "enc"},
            "rewriter": {"step": "aligner", "args": {"dtype": "float32"}},
            "judge": {"model": "made/judge"},
            "aligned-judge": {"model": "made/aligned"},
            "pair-ranker": {"model": "ranker"},
        },
        "steps": {
            "heldout": {"stage": "import", "corpus": "asked.jsonl", "kind": "questions"},
            "earlier": {"stage": "import", "corpus": "old/curate", "kind": "triples"},
            "two-way-bbq": {
                "stage": "import",
                "corpus": "x/bbq.jsonl",
                "kind": "triples",
                "response_column": "rejected",
            },
            "questions": {"stage": "questions", "model": "teacher", "pack": "packs/tidy.yaml", "count": 5},
            "triples": {
                "stage": "triples",
                "questions": "questions",
                "model": "teacher",
                "pack": "packs/tidy.yaml",
                "sampling": {"stop": ["\nInput:"]},
            },
            "curated": {
                "stage": "curate",
                "table": "triples",
                "heldout": ["heldout"],
                "heldout_files": ["a.csv", "b.csv"],
                "heldout_column": "q",
                "embedder": "embedder",
                "previous": "earlier",
            },
            "inspector": {"stage": "train_inspector", "data": "curated", "seed": 42, "base": "encoder", "epochs": 2},
            "aligner": {"stage": "train_aligner", "data": "curated", "seed": 1, "base": "base"},
            "responses": {"stage": "respond", "questions": "heldout", "model": "upstream", "limit": 3},
            "aligned": {
                "stage": "align",
                "responses": "responses",
                "members": [{"criterion": "tidy", "inspector": "inspector", "aligner": "rewriter", "threshold": 0.6}],
                "routing": "fixed",
                "every_row": True,
            },
            "compared": {
                "stage": "align",
                "responses": "responses",
                "members": [{"criterion": "tidy", "inspector": "inspector", "aligner": "rewriter", "threshold": 0.4}],
                "routing": "fixed",
                "every_row": False,
            },
            "evaluation": {
                "stage": "evaluate",
                "aligned": {"aligned": "aligned", "compared": "compared"},
                "inspectors": {"tidy": "inspector", "judge": "judge", "aligned": "aligned-judge"},
                "pair_ranker": "pair-ranker",
                "two_way": {"bbq": "two-way-bbq"},
            },
        },
    }


def test_several_criteria_are_a_group():
    old = {
        "name": "n",
        "criterion": ["a/civic.yaml", "a/very polite.yaml"],
        "heldout": "asked.jsonl",
        "models": {"aligner": {"style": "chat"}},
        "stages": {"questions": {"count": 5}, "train_aligner": {"lora_rank": 4}, "align": {"rounds": 3}},
        "stages_of": {"civic": {"questions": {"count": 9}, "train_inspector": {"base": "own", "epochs": 6}}},
    }
    recipe = converted(old)
    criteria = {"civic": "a/civic.yaml", "very-polite": "a/very polite.yaml"}
    assert recipe["steps"]["criteria"] == {
        "each": {"criterion": criteria},
        "steps": {
            "questions": {"stage": "questions", "model": "teacher", "pack": "{criterion}", "count": 5},
            "triples": {"stage": "triples", "questions": "questions", "model": "teacher", "pack": "{criterion}"},
            "curated": {"stage": "curate", "table": "triples", "heldout": ["heldout"]},
            "inspector": {"stage": "train_inspector", "data": "curated", "seed": 42, "base": "encoder"},
            "aligner": {
                "stage": "train_aligner",
                "data": "curated",
                "seed": 42,
                "base": "base",
                "adapter": True,
                "lora_rank": 4,
            },
        },
    }
    assert list(recipe["steps"]) == [
        *("heldout", "criteria", "civic/questions", "civic/inspector", "responses", "aligned", "evaluation")
    ]
    assert recipe["steps"]["civic/questions"] == {"count": 9}
    assert recipe["steps"]["civic/inspector"] == {"base": "civic-encoder", "epochs": 6}
    assert recipe["models"]["civic-encoder"] == {"model": "own"}
    assert recipe["models"]["rewriter-civic"] == {"step": "civic/aligner", "style": "chat"}
    assert recipe["steps"]["aligned"]["members"] == [
        {"criterion": name, "inspector": f"{name}/inspector", "aligner": f"rewriter-{name}"} for name in criteria
    ]
    assert recipe["steps"]["aligned"]["rounds"] == 3
    assert recipe["steps"]["evaluation"]["inspectors"] == {
        "civic": "civic/inspector",
        "very-polite": "very-polite/inspector",
    }


def test_a_pack_is_called_as_it_calls_itself(tmp_path, root):
    pack = (root / "schemas/criteria/ethical.yaml").read_text().replace("name: ethical", "name: calm", 1)
    (tmp_path / "other.yaml").write_text(pack)
    (member,) = converted({"criterion": str(tmp_path / "other.yaml")})["steps"]["aligned"]["members"]
    assert member["criterion"] == "calm"


@pytest.mark.parametrize(
    "old", [{"stages": 3}, {"criterion": 5, "stages": {"curate": []}}, {"stages_of": [1]}, {"heldout": 1}]
)
def test_what_was_no_recipe_either_has_a_new_form(old):
    assert yaml.safe_load(new_form(old))["steps"]


def test_texts_of_several_lines_can_be_read():
    text = new_form({"criterion": "ethical", "stages": {"triples": {"sampling": {"stop": ["\nInput:"]}}}})
    assert r'- "\nInput:"' in text
