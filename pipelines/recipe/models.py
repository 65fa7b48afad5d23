"""Entries of a recipe's `models`: everything that answers, scores or is trained from.

teacher: {model: Qwen/Qwen3-8B, style: chat, args: {dtype: bfloat16}, revision: 0a1b2c}
rewriter: {step: aligner, args: {dtype: float32}}        # what a step trained, and how it is run
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.recipe.unroll import Unrolled
from pipelines.runtime.steps import is_named
from schemas.settings import look_over
from transforms.engines.engine import EngineConfig

OWN = ("step", "revision")  # keys of an entry that are no setting of an engine
TRAINED = "trained"  # stands for a model that is not there yet


def engine_settings(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry as settings of EngineConfig; a revision is an argument of the engine."""
    settings = {name: value for name, value in entry.items() if name not in OWN}
    arguments = settings.get("args", {})
    if (revision := entry.get("revision")) and isinstance(arguments, Mapping):  # else what is wrong is told
        settings["args"] = {**arguments, "revision": revision}
    return settings


def named(entry: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return an entry with another model: a step's gives way."""
    return {name: value for name, value in entry.items() if name != "step"} | {"model": model}


def named_already(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry says which model it is: its name, or the step that trains it."""
    return bool(entry.get("step")) or is_named(entry)


def entry_problems(entry: Mapping[str, Any], unrolled: Unrolled) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an entry: the key, "" for the entry as a whole, and the message."""
    settings, step = engine_settings(entry), entry.get("step")
    if "adapters" in settings:
        yield "adapters", "unknown setting (an adapter is a model of its own: model: FOLDER)"
    elif step and settings.get("model"):
        yield "step", "has a model too; give one or the other"
    elif not named_already(entry):
        yield "model", "names no model; give one here or with --model NAME=ID"
    else:
        try:
            if step and unrolled.look_up(str(step)).is_model:
                yield "step", f"{step!r} is a model itself; name the step that trains one"
        except LookupError as error:
            yield "step", str(error)
        for name, message in look_over(EngineConfig, {"model": TRAINED, **settings})[1]:
            yield name, message.removeprefix("engine.")
