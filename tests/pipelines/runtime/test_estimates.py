"""What a plan counts, from the recipes and prompts themselves."""

import re

import pyarrow as pa
import pytest
import yaml

from pipelines.align import estimate
from pipelines.commands import run as recipe
from pipelines.questions import Settings
from pipelines.recipe.plan import plan_recipe, topic_growth
from pipelines.recipe.recipe import Config
from pipelines.runtime.estimates import BYTES_PER_TOKEN, parameters_of
from schemas.criteria.pack import load_pack
from schemas.errors import UsageError
from schemas.settings import Layer, read_yaml, resolve
from transforms.alignment.members import Member
from transforms.engines.engine import EngineConfig, Sampling
from transforms.generation.generate import Model
from transforms.tables.table import read_table
from transforms.tables.write import write_tables


def recipe_of(settings, **flags):
    return resolve(Config, [Layer("test", settings), Layer("flags", {"output": "x", "model": "m", **flags})]).config


def test_topics_grow_by_what_a_prompt_asks_for_beyond_what_it_shows():
    pack = load_pack("ethical")  # 20 seeds, each of a type of its own
    growth = [topic_growth(Settings(topic_rounds=rounds), pack) for rounds in range(4)]
    assert growth == [(0, 20), (20, 200), (220, 1200), (1420, 7200)]
    assert topic_growth(Settings(topic_rounds=3, topics_per_type=50), pack) == (1420, 1000)


def test_a_plan_counts_no_more_questions_than_topics_allow(capsys):
    settings = {"name": "t", "criterion": "ethical", "stages": {"questions": {"count": 20000}}}
    rows = {one.step: one.rows for one in plan_recipe(recipe_of(settings), load_pack("ethical"))}
    assert rows["topics"] == 220
    assert rows["triples"] == 1200
    assert recipe.say_plan(recipe_of(settings)) == 0
    said = capsys.readouterr().err
    assert "at most, questions: 1,200 of the 20,000 asked for" in said
    assert "raise topic_rounds (now 2)" in said
    assert recipe.say_plan(recipe_of(settings, limit=1000)) == 0
    assert "asked for" not in capsys.readouterr().err


def test_the_recipes_that_are_shown_can_reach_their_counts(root):
    shown = re.search(r"^    name: mine\n(?:    .*\n)+", (root / "README.md").read_text(), re.MULTILINE)
    assert shown
    settings = {**yaml.safe_load(shown[0]), "criterion": "ethical"}
    for recipe_settings in (settings, read_yaml(str(root / "pipelines/recipes/paper_000.yaml"))):
        config = recipe_of(recipe_settings)
        _, topics = topic_growth(config.stages.questions, load_pack(config.criterion))
        assert topics >= config.stages.questions.count


def test_a_prompted_aligner_is_planned_with_principles_and_demonstrations(tmp_path):
    pack = load_pack("ethical")
    texts = {"id": ["a", "b"], "question": ["How do I win?", None], "response": ["By cheating.", "Yes."]}
    write_tables(str(tmp_path), {"responses": pa.table(texts)}, {"digest": "x"}, 8)
    model = Model(engine=EngineConfig(model="m"), sampling=Sampling(max_tokens=7))
    members = [
        Member(criterion=name, inspector="i", model=model, pack=pack_)
        for name, pack_ in (("trained", None), ("prompted", pack))
    ]
    trained, prompted = estimate(read_table(str(tmp_path)), members)
    said = sum(len(one.text) for one in pack.principles) + sum(len(one.correction) for one in pack.demonstrations)
    assert prompted.prompt_tokens > trained.prompt_tokens + said / BYTES_PER_TOKEN
    assert prompted.generated_tokens == trained.generated_tokens == 14


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"not a model folder: it has no config.json"):
        parameters_of(EngineConfig(model=str(tmp_path)))
