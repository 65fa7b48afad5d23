"""The recipes that come along, and the demos': read, unrolled, every name resolved, every edge checked by columns."""

import json
from pathlib import Path

import pytest
import yaml

from pipelines.recipe.graph import Graph, Told, read_graph
from pipelines.recipe.read import recipe_names
from pipelines.recipe.registry import STAGES

ROOT = Path(__file__).parents[3]
MODELS = {"teacher": "teacher-8B", "upstream": "upstream-1B"}  # which no recipe for users names
TRIPLE = {"question": "Why?", "response": "No.", "correction": "Because it rains."}
BROUGHT = {
    "questions.jsonl": {"question": "Why?"},
    "responses.jsonl": {"question": "Why?", "response": "No."},
    "ethical.jsonl": TRIPLE,
    "factual.jsonl": TRIPLE,
    "data/bigbench_harmless.jsonl": {"prompt": "Why?", "chosen": "It rains.", "rejected": "No."},
    "data/beavertails_evaluation.jsonl": {"question": "Why?", "question_type": "self_harm"},
}
MINE = """\
extends: one_criterion
name: mine
values: {criterion: mine.yaml}
models:
  teacher: {model: Qwen/Qwen3-8B, style: chat, args: {dtype: bfloat16}}
  upstream: {model: Qwen/Qwen3-0.6B, style: chat}
  base: {model: EleutherAI/pythia-1.4b-deduped}
steps:
  questions: {count: 20000, topic_rounds: 4}
  aligner: {max_steps: 700}
"""


@pytest.fixture(autouse=True)
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the recipes' comments ask for, in a folder of the user's."""
    (tmp_path / "data").mkdir()
    for path, row in BROUGHT.items():
        (tmp_path / path).write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)


def graph_of(recipe: str) -> Graph:
    needs_models = recipe in ("one_criterion", "squad")
    recipe = str(ROOT / recipe) if "/" in recipe else recipe
    return read_graph(recipe, STAGES, Told(models=MODELS if needs_models else {}))


def configs(recipe: str) -> dict:
    return {step.name: step.config for step in graph_of(recipe).steps}


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        ("one_criterion", 9),
        ("squad", 21),
        ("squad_from_data", 11),
        ("paper_000", 14),
        ("paper_000_prompted", 9),
        ("paper_002", 47),
        ("demo/recipe.yaml", 9),
        ("demo/squad/recipe.yaml", 21),
    ],
)
def test_every_recipe_that_comes_along_is_whole(recipe, steps):
    assert len(graph_of(recipe).steps) == steps


def test_no_recipe_is_left_out_here():
    assert recipe_names() == [
        "one_criterion",
        "paper_000",
        "paper_000_prompted",
        "paper_002",
        "squad",
        "squad_from_data",
    ]


def test_ten_lines_make_a_recipe_of_ones_own(tmp_path):
    assert MINE.count("\n") == 10
    (tmp_path / "recipe.yaml").write_text(MINE)
    (tmp_path / "mine.yaml").write_text((ROOT / "schemas/criteria/helpful.yaml").read_text())
    steps = {step.name: step for step in read_graph(str(tmp_path / "recipe.yaml"), STAGES).steps}
    questions, aligner = steps["questions"].config, steps["aligner"].config
    assert (questions.count, questions.topic_rounds, questions.question_rounds) == (20000, 4, 20)
    assert questions.pack == steps["triples"].config.pack == str(tmp_path / "mine.yaml")
    assert (aligner.max_steps, aligner.learning_rate) == (700, 1e-5)
    assert steps["aligner"].sources["base"].settings["model"] == "EleutherAI/pythia-1.4b-deduped"
    assert steps["responses"].sources["questions"].step == "tests"
    assert steps["evaluation"].sources["inspectors.own"].step == "inspector"


@pytest.mark.parametrize("recipe", ["demo/recipe.yaml", "demo/squad/recipe.yaml"])
def test_the_demos_draw_what_they_drew_before(recipe):
    seeds = {}
    for step in graph_of(recipe).steps:
        if hasattr(step.config, "seed"):
            seeds.setdefault(step.kind.trains, set()).add(step.config.seed)
    assert seeds == {True: {42}, False: {7}}


def test_the_squads_aligners_are_adapters_of_one_base():
    made = configs("demo/squad/recipe.yaml")
    for criterion in ("civic", "relevant", "polite"):
        aligner = made[f"{criterion}/aligner"]
        assert (aligner.adapter, aligner.lora_rank, aligner.lora_alpha, aligner.lora_dropout) == (True, 16, 32, 0.0)
    assert (made["civic/questions"].count, made["polite/questions"].count) == (1000, 300)
    assert (made["civic/inspector"].epochs, made["polite/inspector"].epochs) == (6, 4)
    assert (made["unguarded"].guard, made["guarded"].guard, made["guarded"].rounds) == (False, True, 3)


def test_a_prompted_aligner_shares_all_that_comes_before_it():
    trained, prompted = configs("paper_000"), configs("paper_000_prompted")
    shared = ("questions", "triples", "curated", "inspector", "tests", "responses")
    assert [name for name in shared if trained[name] != prompted[name]] == []
    (member,) = prompted["aligned"].members
    assert (member.aligner, member.pack) == ("teacher", "ethical")
    assert prompted["evaluation"].aligned == "aligned"


def test_comments_name_what_the_user_brings():
    for path in sorted((ROOT / "pipelines/recipes").glob("*.yaml")):
        text = path.read_text()
        comment = text[: text.index("\n\n")]
        brought = [
            value for value in (yaml.safe_load(text).get("values") or {}).values() if Path(value).suffix or "/" in value
        ]
        assert [value for value in brought if value not in comment] == [], path.name
