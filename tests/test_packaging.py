"""The packages as a user gets them: contents, the command beside folders of the same names, Beam's source package."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from apache_beam.runners.portability.stager import Stager

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipelines", "schemas", "transforms", "training")
LEFT_BEHIND = (
    ".git",
    ".venv",
    ".flink",
    "runs",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout's own environment, so that only what is installed counts."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=inherited | environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, as builds leave files behind."""
    copy = tmp_path_factory.mktemp("checkout") / "alignbeam"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the source package, and the wheel made from that source package."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a fresh environment with the wheel; the dependencies are seen through a path file."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-index", "--no-deps"]
    done = run(*pip, wheel, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # Last on the path, so that an alignbeam installed in the outer environment cannot stand in for the wheel.
    (site_packages / "outer.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder / "bin"


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A user's folder that has its own `schemas.py` and `training/`."""
    (tmp_path / "schemas.py").write_text("raise RuntimeError('the wrong schemas')\n")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise RuntimeError('the wrong training')\n")
    return tmp_path


def names_in(archive: Path) -> set[str]:
    """Files of a source package, without its first folder."""
    with tarfile.open(archive) as opened:
        return {name.partition("/")[2] for name in opened.getnames()}


def files_of(package: Path) -> set[str]:
    """What the distribution should hold: every file of the four packages, and the module."""
    found = {file.relative_to(package).as_posix() for name in PACKAGES for file in (package / name).rglob("*.*")}
    return found | {"alignbeam.py"}


def test_wheel_holds_the_packages_and_nothing_else(built: Path, checkout: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == files_of(checkout)


def test_wheel_declares_its_licence_and_command(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (folder,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    assert "alignbeam = alignbeam:main" in archive.read(f"{folder}/entry_points.txt").decode()
    metadata = archive.read(f"{folder}/METADATA").decode()
    assert "License: Apache-2.0" in metadata
    assert "Requires-Dist: torch<2.14,>=2.13; extra ==" in metadata
    assert re.findall(r"^Requires-Dist: (?:torch|transformers|vllm)\b[^;]*$", metadata, re.MULTILINE) == []


def test_source_package_holds_the_code_alone(built: Path, checkout: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    names = names_in(archive)
    assert files_of(checkout) | {"setup.py", "pyproject.toml", "LICENSE"} <= names
    assert {name for name in names if name.startswith(("tests", "demo", "benchmarks", "deploy"))} == set()


def test_beam_builds_its_source_package_from_another_directory(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = Stager._build_setup_package(str(checkout / "setup.py"), str(tmp_path))
    assert files_of(checkout) <= names_in(Path(archive))


def test_command_works_beside_folders_of_the_same_names(installed: Path, crowded: Path) -> None:
    (pack,) = installed.parent.glob("lib/python*/site-packages/schemas/criteria/ethical.yaml")
    done = run(installed / "alignbeam", "check", pack, cwd=crowded)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["alignbeam", "pipelines.commands.check"])
def test_intruder_is_named_where_the_folder_comes_first(module: str, installed: Path, crowded: Path) -> None:
    done = run(installed / "python", "-m", module, "check", "mine.yaml", cwd=crowded)
    assert done.returncode == 2
    assert str(crowded / "schemas.py") in done.stderr
    assert str(crowded / "training") in done.stderr
    assert "Traceback" not in done.stderr
