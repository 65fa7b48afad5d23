"""What a recipe's generating stages would cost, from its settings alone."""

import math
from collections.abc import Sequence
from dataclasses import replace

from pipelines.questions import Settings as QuestionSettings
from pipelines.recipe.recipe import Config
from pipelines.runtime.estimates import Estimate, parameters_of, tokens_of
from schemas.criteria.pack import Pack
from transforms.engines.engine import EngineConfig
from transforms.prompts import render
from transforms.synthesis.questions import hint
from transforms.training_data.aligner_format import aligner_prompt

TEST_SHARE = 0.15


def topic_growth(settings: QuestionSettings, pack: Pack) -> tuple[int, int]:
    """Return the prompts of all topic rounds, and the topics after them, at most.

    A round has a prompt for each topic there is before it. A prompt asks for a list of `topics_per_prompt` and shows
    one of them itself, or `examples` of them once a type has twice as many.
    """
    topics = len({(seed.question_type, seed.topic) for seed in pack.seeds})
    types = len({seed.question_type for seed in pack.seeds})
    prompts = 0
    for _ in range(settings.topic_rounds):
        shown = settings.examples if topics >= 2 * settings.examples * types else 1
        prompts += topics
        topics += topics * max(0, settings.topics_per_prompt - shown)
    return prompts, topics if settings.topics_per_type is None else min(topics, settings.topics_per_type * types)


def plan_recipes(recipes: Sequence[Config], packs: Sequence[Pack], turns: int) -> list[Estimate]:
    """Estimate the generating stages of one criterion, or of a squad.

    A squad's are the data of each criterion, then the responses and their rewriting, as often as a row may have a turn.
    """
    planned = {pack.name: plan_recipe(recipe, pack) for recipe, pack in zip(recipes, packs, strict=True)}
    if len(planned) == 1:
        return planned[packs[0].name]
    data = [replace(step, step=f"{name}: {step.step}") for name, steps in planned.items() for step in steps[:3]]
    respond, align = planned[packs[0].name][3:]
    repeated = {name: turns * getattr(align, name) for name in ("rows", "prompt_tokens", "generated_tokens")}
    return [*data, respond, replace(align, **repeated)]


def plan_recipe(recipe: Config, pack: Pack) -> list[Estimate]:
    """Estimate the generating stages of a recipe, in order.

    The estimates are upper bounds, because some rows are lost on the way.
    """
    teacher, upstream = (EngineConfig(**recipe.engine(name)) for name in ("teacher", "upstream"))
    settings = recipe.stages.questions
    topic_prompts, topics_at_most = topic_growth(settings, pack)
    count = min(settings.count, recipe.limit or settings.count, topics_at_most)
    types = sorted({seed.question_type for seed in pack.seeds})
    topics = [seed.topic for seed in pack.seeds][:1]
    hints = [hint(seed.topic, seed.question_type) for seed in pack.seeds]
    shown = [seed.question for seed in pack.seeds][: settings.examples]
    length = settings.examples + settings.hints
    listed = (hints * (length // len(hints) + 1))[:length]
    prompts = {
        "topics": render("topics", question_type=types[0], topics=topics, count=settings.topics_per_prompt),
        "questions": render("questions", failure=pack.failure, hints=listed, examples=shown),
        "triples": render("triples", pack=pack, question=shown[0]),
        "respond": render("answer", question=shown[0]),
        "align": aligner_prompt(shown[0], pack.demonstrations[0].response),
    }
    tests = recipe.stages.respond.limit or round(count * TEST_SHARE)
    triples, respond, align = recipe.stages.triples, recipe.stages.respond, recipe.stages.align
    aligner = EngineConfig(model=recipe.stages.train_aligner.get("base") or "aligner")
    asked = math.ceil(count / settings.hints)
    steps = [
        ("topics", teacher, topic_prompts, settings.sampling),
        ("questions", teacher, asked, settings.sampling),
        ("triples", teacher, min(count, triples.limit or count), triples.sampling),
        ("respond", upstream, min(tests, recipe.limit or tests), respond.sampling),
        ("align", aligner, min(tests, recipe.limit or tests), align.sampling),
    ]
    return [
        Estimate(
            step=step,
            model=engine.model,
            rows=rows,
            prompt_tokens=rows * tokens_of(prompts[step]),
            generated_tokens=rows * sampling.max_tokens,
            parameters=parameters_of(engine),
        )
        for step, engine, rows, sampling in steps
    ]
