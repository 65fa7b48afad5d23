"""The operators' pages and the image: commands that our parser and Beam's take, versions and files that are there."""

import importlib
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import alignbeam
from pipelines.runtime.beam import beam_options
from pipelines.runtime.entrypoint import split_beam_arguments
from schemas.command_line import DONE

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
PAGES = sorted(DEPLOY.glob("*.md"))
INSTRUCTIONS = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text()).splitlines()


def commands(page: Path) -> list[list[str]]:
    """The `alignbeam` commands of a page's code blocks, in words as a shell would part them."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    return [shlex.split(line) for line in re.findall(r"^ {4}(alignbeam .+)$", text, re.MULTILINE)]


COMMANDS = [pytest.param(command, id=f"{page.stem}-{command[1]}") for page in PAGES for command in commands(page)]


def test_every_page_has_a_launch_line() -> None:
    launched = {page.stem for page in PAGES for command in commands(page) if "--" in command}
    assert launched == {"dataflow", "flink"}


@pytest.mark.parametrize("command", COMMANDS)
def test_launch_line_is_one_that_our_parser_and_beam_take(command, capsys) -> None:
    own, beam_arguments = split_beam_arguments(command[2:])
    main = importlib.import_module(alignbeam.COMMANDS[command[1]]).main
    assert main([*own, "--print-config"]) == DONE, capsys.readouterr().err
    beam_options(beam_arguments)


def test_dataflow_starts_one_python_process_for_each_machine() -> None:
    launches = [split_beam_arguments(command)[1] for command in commands(DEPLOY / "dataflow.md") if "--" in command]
    assert launches
    assert all("no_use_multiple_sdk_containers" in " ".join(launch) for launch in launches)


def test_cluster_settings_are_yaml_with_a_restart_strategy() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (DEPLOY / "flink.md").read_text(), re.DOTALL)
    settings = yaml.safe_load(block)
    assert settings["restart-strategy"]["type"] == "fixed-delay"
    assert settings["restart-strategy"]["fixed-delay"]["attempts"] > 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, target


def test_image_has_the_beam_that_is_tested() -> None:
    assert f"ARG BEAM={version('apache-beam')}" in INSTRUCTIONS


def test_image_gets_every_file_that_it_needs() -> None:
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    first, *_, last = [line.split()[1:-1] for line in INSTRUCTIONS if re.match("COPY (?!--)", line)]
    assert {*first, *alignbeam.PACKAGES} == allowed
    assert {name for name in allowed if not (ROOT / name).exists()} == set()
    assert last == ["."]


def test_image_starts_beams_worker_and_makes_no_environment_of_its_own() -> None:
    assert INSTRUCTIONS[-1] == 'ENTRYPOINT ["/opt/apache/beam/boot"]'
    assert "ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in INSTRUCTIONS
