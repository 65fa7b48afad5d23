"""What `doctor` says of an installation, and what it never says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipelines.commands import doctor, installation
from pipelines.commands.installation import Check


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No imports of torch and vLLM in a process of their own: seconds each."""
    answers = {
        installation.PROBE_TORCH: ({"version": "2.13.0+cpu", "build": "CPU only", "gpus": []}, ""),
        installation.PROBE_TRANSFORMERS: ("5.19.0", ""),
        installation.PROBE_VLLM: (["0.32.0", "cpu"], ""),
    }
    monkeypatch.setattr(installation, "probe", answers.__getitem__)


def examine(tmp_path: Path) -> dict[str, Check]:
    return {check.name: check for check in doctor.examine(str(tmp_path), None)}


def test_credentials_are_present_or_absent_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    checks = examine(tmp_path)
    assert checks["OPENAI_API_KEY"] == Check("OPENAI_API_KEY", "ok", "present")
    assert (checks["HF_TOKEN"].status, checks["HF_TOKEN"].finding) == ("info", "absent")
    doctor.main(["--json"])
    doctor.main([])
    assert "sk-very-secret" not in "".join(capsys.readouterr())


def test_json_holds_every_check_and_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.main(["--json", "-o", str(tmp_path)])
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] == (code == 0) == all(check["status"] != "fail" for check in report["checks"])
    assert {"name": "torch", "status": "ok", "found": "2.13.0+cpu, CPU only", "advice": ""} in report["checks"]


def test_a_failed_check_is_named_and_gives_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert doctor.main(["-o", str(tmp_path / "file" / "runs")]) == 1
    assert "failed: output" in capsys.readouterr().out


def test_output_may_be_a_folder_that_is_not_there_yet_or_a_store(tmp_path: Path) -> None:
    (folder,) = doctor.check_output(str(tmp_path / "new" / "runs"))
    (store,) = doctor.check_output("memory://runs")
    assert (folder.status, store.status) == ("ok", "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_package_hidden_by_another_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignbeam.intruders", lambda: ["schemas (/somewhere/schemas.py)"])
    (check,) = installation.check_names()
    assert check.status == "fail"
    assert "/somewhere/schemas.py" in check.finding


def test_packages_missing_or_out_of_range_are_named() -> None:
    present = Requirement("pytest>=1")
    assert installation.check_requirements("core", [present], "fail", "install").status == "ok"
    missing = installation.check_requirements("core", [present, Requirement("no-such-thing")], "fail", "install it")
    assert missing == Check("core", "fail", "absent: no-such-thing", "install it")
    odd = installation.check_requirements("core", [Requirement("pytest<1")], "fail", "install it")
    assert odd.status == "warn"
    assert odd.finding.endswith("(not <1)")


def test_transformers_broken_by_a_cuda_companion_says_which_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "transformers": "5.19.0", "torchvision": "0.28.0"}
    monkeypatch.setattr(installation, "installed_version", versions.get)
    monkeypatch.setattr(installation, "probe", lambda code: (None, "RuntimeError: operator torchvision::nms"))
    (check,) = installation.check_transformers()
    assert (check.status, check.advice) == ("fail", "pip uninstall torchvision")


def test_flink_jar_that_is_not_there_fails(tmp_path: Path) -> None:
    assert doctor.check_flink([tmp_path / "absent.jar"]).status == "fail"
    assert doctor.check_flink([]).status == "info"


def test_probe_reads_the_last_line_and_names_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert installation.probe("print('noise'); print('[1, 2]')") == ([1, 2], "")
    assert installation.probe("import no_such_thing") == (None, "ModuleNotFoundError: No module named 'no_such_thing'")
    monkeypatch.setattr(installation, "IMPORT_SECONDS", 0.2)
    assert installation.probe("while True: pass") == (None, "no answer within 0.2 s")


@pytest.mark.slow
def test_doctor_of_this_environment_finds_nothing_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.commands.doctor", "--json"], capture_output=True, text=True, timeout=280
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert [name for name, check in checks.items() if check["status"] == "fail"] == []
    assert checks["vLLM"]["found"] in ("0.32.0 for cpu", "0.32.0 for cuda")
