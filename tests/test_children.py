"""Programs that we start import nothing from the folder they are started in."""

import os
from pathlib import Path

import apache_beam as beam
import pytest

from pipelines.commands import installation
from pipelines.runtime.beam import run_pipeline
from pipelines.runtime.trainers import run_trainer
from transforms.engines.engine import EngineConfig
from transforms.engines.vllm_process import VllmProcess
from transforms.engines.weights import Weights

# Leaves a mark, then hands over to the module that it hides, so that the program that imports it goes on.
CANARY = """
import importlib, os, sys
open(__file__ + ".ran", "w").close()
sys.path = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]
del sys.modules[__name__]
importlib.import_module(__name__)
"""
HOSTILE = ("json", "torch", "xxhash", "pydantic", "numpy", "transforms", "training", "apache_beam")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a folder whose modules have the names of ones that we and our libraries import."""
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(CANARY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


def ran(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ran"))


@pytest.mark.parametrize("pythonpath", ["", os.pathsep])  # the second names the working directory by an empty part
def test_doctors_probes(hostile, monkeypatch, pythonpath):
    monkeypatch.setenv("PYTHONPATH", pythonpath)
    assert installation.probe("import json, xxhash, numpy; print(json.dumps([1]))") == ([1], "")
    grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import xxhash'], check=True); print(2)"
    assert installation.probe(grandchild) == (2, "")
    assert ran(hostile) == []


def test_trainers(hostile, capfd):
    run_trainer("inspector", ["--help"])
    assert "python -m training.inspector" in capfd.readouterr().out
    assert ran(hostile) == []


def test_vllms_host(hostile):
    host = VllmProcess(EngineConfig(model="m"), Weights("m", None, ""), None)
    try:
        host._process.stdin.close()  # a host without a configuration gives up, after its imports
        assert host._process.wait(120) == 1
    finally:
        host.kill()
    assert ran(hostile) == []


def test_workers_that_beam_starts(hostile):
    def build(root: beam.Pipeline) -> None:
        root | beam.Create([1]) | beam.Map(lambda number: __import__("json").dumps(number))

    run_pipeline(build, ["--direct_running_mode=multi_processing"])
    assert ran(hostile) == []
    assert "PYTHONSAFEPATH" not in os.environ


def test_every_module_that_starts_python_says_with_which_environment():
    sources = {
        path.name: path.read_text()
        for package in ("schemas", "transforms", "training", "pipelines")
        for path in (Path(__file__).parent.parent / package).rglob("*.py")
    }
    starters = {name for name, source in sources.items() if "[sys.executable" in source or "multiprocessing" in source}
    assert starters == {name for name, source in sources.items() if " child_environment() | " in source}
