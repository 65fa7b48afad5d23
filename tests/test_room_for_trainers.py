"""A trainer starts on a machine of its own: no engine, and no model that scores, holds memory by then."""

import gc
import json

import psutil
import pytest
import tiny_models

from pipelines import train
from pipelines.commands.run import Config, run
from schemas.errors import StageError
from transforms.engines import encoder, running

QUESTIONS = ["Why is the old bridge closed?", "May I read her diary?", "How do we share the harvest?"]
TRIPLES = [
    {"question": f"{question} ({number})", "response": f"Never mind {number}.", "correction": f"Ask kindly {number}."}
    for number in range(12)
    for question in QUESTIONS
]
STEPS = {
    "questions": {"stage": "import", "corpus": "questions.jsonl", "kind": "questions"},
    "triples": {"stage": "import", "corpus": "triples.jsonl", "kind": "triples"},
    "curated": {"stage": "curate", "table": "triples", "similarity": {"words": 3, "jaccard": 1.0}},
    "responses": {"stage": "respond", "questions": "questions", "model": "teacher", "sampling": {"max_tokens": 8}},
    "scores": {"stage": "score", "responses": "responses", "inspectors": {"kind": "scorer"}},
    "more": {"stage": "respond", "questions": "questions", "model": "teacher", "after": ["scores"]},
    "inspector": {"stage": "train_inspector", "data": "curated", "base": "encoder", "after": ["more"]},
}


@pytest.mark.slow
def test_no_engine_is_left_when_a_trainer_starts(tmp_path, teacher, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows in (("questions", [{"question": question} for question in QUESTIONS]), ("triples", TRIPLES)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_models.encoder(tmp_path / "encoder")
    tiny_models.classifier(tmp_path / "scorer")
    models = {
        "teacher": {"model": str(teacher), "args": {"dtype": "float32"}},
        "encoder": {"model": "encoder"},
        "scorer": {"model": "scorer"},
    }
    seen = {}

    def start(method, config, launch):
        gc.collect()
        seen["hosts"], seen["scorers"], seen["engines"] = hosts(), dict(encoder._opened), dict(running._engines)
        raise StageError("seen enough")

    monkeypatch.setattr(train.trainers, "train", start)
    with pytest.raises(StageError, match="seen enough"):
        run(Config(recipe="room", output="run"), recipe={"name": "room", "models": models, "steps": STEPS})
    assert seen["hosts"] == seen["scorers"] == seen["engines"] == {}


@pytest.mark.slow
def test_the_hosts_are_seen_while_an_engine_is_open(teacher):
    config = running.EngineConfig(model=str(teacher), args={"dtype": "float32"})
    running.open_engine(config)
    try:
        assert sum(hosts().values()) > 100 << 20
    finally:
        running.close_engines()
    assert hosts() == {}


def hosts() -> dict[int, int]:
    """The memory in bytes of every process that this one started for an engine, by its number."""
    children = psutil.Process().children(recursive=True)
    return {child.pid: child.memory_info().rss for child in children if child.status() != psutil.STATUS_ZOMBIE}
