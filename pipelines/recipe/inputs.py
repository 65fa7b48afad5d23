"""What a recipe reads and writes outside its run, checked before anything is spent."""

from collections.abc import Callable, Iterator
from functools import partial

from pipelines import curate, ingest
from pipelines.recipe.recipe import Config
from pipelines.recipe.two_way import two_way_items
from pipelines.runtime.trainers import TRAINERS
from schemas.errors import UsageError
from schemas.tables import TRIPLES
from training.run_folder import base_digest
from transforms.engines.encoder import model_config
from transforms.engines.engine import EngineConfig
from transforms.engines.identity import engine_digest
from transforms.tables import storage
from transforms.tables.table import MANIFEST, read_table


def check_output(config: Config) -> None:
    """Raise UsageError where the output cannot be written.

    Nor may it be a store where trainers write there.
    """
    trains = config.only is None or config.only.startswith("train_")
    if trains and "://" in config.output:
        raise UsageError(
            f"output = {config.output!r}: the trainers write to a local disk; give a local folder, such as "
            "-o runs/mine (stages other than train_inspector and train_aligner take a store, with --only)"
        )
    storage.check_writable(config.output)


def check_inputs(config: Config) -> None:
    """Raise UsageError for all files and models that are not there, before any work.

    Each is named by the recipe's key.
    """
    problems = []
    for readers, key, look in inputs_of(config):
        if config.only is None or config.only in readers:
            try:
                look()
            except UsageError as error:
                problems.append(f"{key}: {error}")
    if problems:
        raise UsageError("\n".join(problems))


def inputs_of(config: Config) -> Iterator[tuple[tuple[str, ...], str, Callable[[], object]]]:
    """Yield what a recipe reads from elsewhere.

    That is the stages that do, the key, and a check that raises UsageError.
    """
    for readers, name in ((("questions", "triples"), "teacher"), (("respond",), "upstream")):
        yield readers, f"models.{name}", partial(engine_digest, EngineConfig(**config.engine(name)))
    curating, judging = config.stages.curate, config.stages.evaluate
    if config.heldout:
        heldout = ingest.Config(corpus=config.heldout, output="", kind="questions")
        yield ("curate", "respond"), "heldout", partial(look_at, heldout)
    for path in curating.heldout:
        corpus = ingest.Config(corpus=path, output="", kind="questions", question_column=curating.heldout_column)
        yield ("curate",), "stages.curate.heldout", partial(look_at, corpus)
    yield ("curate",), "stages.curate", partial(curate.check_columns, "triples", TRIPLES, curating)
    if curating.previous:
        yield ("curate",), "stages.curate.previous", partial(read_table, curating.previous)
    if curating.embedder:
        yield ("curate",), "stages.curate.embedder", partial(model_config, curating.embedder)
    for name, trainer in TRAINERS.items():
        base = getattr(config.stages, f"train_{name}").get("base", trainer.base)
        yield (f"train_{name}",), f"stages.train_{name}.base", partial(base_digest, base)
    for judge in judging.inspector:
        yield ("evaluate",), "stages.evaluate.inspector", partial(model_config, judge.partition("=")[2] or judge)
    if judging.pair_ranker:
        yield ("evaluate",), "stages.evaluate.pair_ranker", partial(model_config, judging.pair_ranker)
    for path in judging.two_way:
        yield ("evaluate",), "stages.evaluate.two_way", partial(look_at, two_way_items(path, ""))


def look_at(corpus: ingest.Config) -> None:
    """Raise UsageError where a corpus is missing, empty, lacks a column, or is broken."""
    if storage.exists(storage.join(corpus.corpus, MANIFEST)):
        read_table(corpus.corpus)
    else:
        ingest.find_sources(corpus)
