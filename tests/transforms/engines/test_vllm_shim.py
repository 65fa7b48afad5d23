import sys
from types import SimpleNamespace

import pytest

from transforms.engines.vllm_shim import Vllm


class Started(Exception):
    """Raised in place of loading a model."""


@pytest.fixture
def arguments(monkeypatch):
    """What vLLM's LLM was started with; no vLLM is imported."""
    passed: dict = {}

    def start(**arguments):
        passed.update(arguments)
        raise Started

    platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: False))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=start, platforms=platforms))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    return passed


def start(args):
    with pytest.raises(Started):
        Vllm("owner/model", None, [], False, args, {})


def test_weights_are_safetensors_unless_the_user_says_otherwise(arguments):
    start({})
    assert arguments["load_format"] == "safetensors"
    start({"load_format": "dummy"})
    assert arguments["load_format"] == "dummy"


def test_a_models_code_is_never_trusted(arguments):
    start({"trust_remote_code": True})
    assert arguments["trust_remote_code"] is False
