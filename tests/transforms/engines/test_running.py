"""Which engines stay open for the models that are run next."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from transforms.engines import running
from transforms.engines.engine import EngineConfig


class Stub:
    """An engine that only says whether it was closed."""

    concurrency = 1
    is_closed = False

    def __init__(self, config):
        self.config = config

    def close(self):
        self.is_closed = True


@pytest.fixture(autouse=True)
def stubs(monkeypatch):
    monkeypatch.setattr(running, "_engines", {})
    monkeypatch.setattr(running, "_start", Stub)


@pytest.fixture
def base(tmp_path) -> EngineConfig:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return EngineConfig(model=str(folder), args={"dtype": "float32"})


def adapter(base: EngineConfig, name: str) -> EngineConfig:
    """The model that an adapter's folder beside its base is."""
    folder = f"{base.model}-{name}"
    Path(folder).mkdir()
    (Path(folder) / "adapter_model.safetensors").write_bytes(b"")
    config = {"base_model_name_or_path": base.model}
    (Path(folder) / "adapter_config.json").write_text(json.dumps(config))
    return replace(base, model=folder)


def kept(engine: EngineConfig, *models: EngineConfig) -> bool:
    opened = running.open_engine(engine)
    running.close_engines(keep=models)
    return not opened.is_closed


def test_an_engine_stays_for_its_own_model_alone(base):
    assert kept(base, base)
    assert kept(base, EngineConfig(model="other"), base)
    assert not kept(base)
    assert not kept(base, EngineConfig(model="other"))


def test_the_same_weights_run_otherwise_are_another_engine(base):
    assert not kept(base, replace(base, args={"dtype": "bfloat16"}))


def test_the_engine_of_adapters_stays_for_the_same_adapters(base):
    first, second = adapter(base, "a"), adapter(base, "b")
    both = replace(base, adapters=(first.model, second.model))
    assert kept(both, first, second)
    assert kept(both, second, first, EngineConfig(model="other"))
    assert not kept(both, first)
    assert not kept(both, base)
    assert not kept(both, replace(first, args={}), replace(second, args={}))


def test_the_base_alone_is_no_engine_for_its_adapters(base):
    assert not kept(base, adapter(base, "a"))


def test_an_engine_that_is_closed_is_started_anew(base):
    first = running.open_engine(base)
    running.close_engines()
    assert running.open_engine(base) is not first
