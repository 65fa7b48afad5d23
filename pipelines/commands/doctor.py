"""What this installation can do and what it lacks; loads no model and downloads nothing.

    alignbeam doctor
    alignbeam doctor -o s3://bucket/runs --flink-jar beam-flink-1.19-job-server.jar
    alignbeam doctor --json

The exit code is 1 where something that is needed fails.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pipelines.commands.installation import (
    GIB,
    Check,
    Status,
    check_names,
    check_packages,
    check_torch,
    check_transformers,
    check_vllm,
)
from schemas.command_line import DONE, FAILED, Parser, exit_code
from schemas.console import messages, results
from schemas.errors import UsageError
from schemas.urls import redact_urls
from transforms.tables.storage import check_writable

STYLES: dict[Status, str] = {"ok": "green", "info": "dim", "warn": "yellow", "fail": "bold red"}
MIN_MEMORY_GIB = 4
MIN_DISK_GIB = 5
# name: (what it is for, environment variables that may hold it, a file that may hold it)
CREDENTIALS = {
    "HF_TOKEN": ("gated models and data sets of the Hugging Face hub", ("HF_TOKEN",), "~/.cache/huggingface/token"),
    "OPENAI_API_KEY": ("OpenAI's own server", ("OPENAI_API_KEY",), ""),
    "ALIGNBEAM_KEYS": ("any other server that asks for a key", ("ALIGNBEAM_KEYS",), ""),
    "AWS": ("s3:// paths", ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"), "~/.aws/credentials"),
    "Google Cloud": (
        "gs:// paths and Dataflow",
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        "~/.config/gcloud/application_default_credentials.json",
    ),
}


def check_memory() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    free = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free, {os.cpu_count()} cores"
    if memory.available < MIN_MEMORY_GIB * GIB:
        yield Check("memory", "warn", free, f"training and vLLM want {MIN_MEMORY_GIB} GiB or more")
    else:
        yield Check("memory", "ok", free)


def check_output(output: str) -> Iterator[Check]:
    """Say whether results can be written to `output`, and how much fits there."""
    if "://" in output:
        try:
            check_writable(output)
        except UsageError as error:
            yield Check("output", "fail", str(error), "choose another path, or give its credentials")
        else:
            yield Check("output", "ok", f"{redact_urls(output)} can be written")
        return
    path = Path(output).absolute()
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    space = f"{path}: {free / GIB:.1f} GiB free"
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield Check("output", "fail", f"{folder} cannot be written to", "choose another path with -o")
    elif free < MIN_DISK_GIB * GIB:
        yield Check("output", "warn", space, f"a run with trained models wants {MIN_DISK_GIB} GiB or more")
    else:
        yield Check("output", "ok", space)


def check_runners(flink_jar: str | None) -> Iterator[Check]:
    from apache_beam.runners.portability.prism_runner import PrismJobServer
    from apache_beam.utils.subprocess_server import JavaJarServer

    yield Check("runner: local", "ok", "FnApiRunner, no download")
    binaries = [path for path in Path(PrismJobServer.BIN_CACHE).glob("apache_beam-*") if os.access(path, os.X_OK)]
    if binaries:
        yield Check("runner: Prism", "ok", str(binaries[0]))
    else:
        yield Check("runner: Prism", "info", "no binary here", "Beam downloads it, or: -- --prism_location=FILE")
    yield check_flink([Path(flink_jar)] if flink_jar else list(Path(JavaJarServer.JAR_CACHE).glob("*-flink-*.jar")))


def check_flink(jars: list[Path]) -> Check:
    java = shutil.which("java")
    # A launcher of a Java that is not there is found too, and exits with an error.
    version = subprocess.run([java, "-version"], capture_output=True, text=True) if java else None
    if not jars:
        return Check(
            "runner: Flink", "info", "no job server jar here", "that runner needs Beam's: --flink_job_server_jar=FILE"
        )
    if not jars[0].is_file():
        return Check("runner: Flink", "fail", f"{jars[0]}: no such file", "give the jar's path: --flink-jar FILE")
    if version is None or version.returncode:
        return Check("runner: Flink", "fail", f"{jars[0]}, but no Java", "install Java 11 or newer")
    return Check("runner: Flink", "ok", f"{jars[0]}, {version.stderr.splitlines()[0]}")


def check_credentials() -> Iterator[Check]:
    """Say which credentials are present; no value gets into the output."""
    for name, (purpose, variables, file) in CREDENTIALS.items():
        if any(map(os.environ.get, variables)) or (file and Path(file).expanduser().is_file()):
            yield Check(name, "ok", "present")
        else:
            yield Check(name, "info", "absent", f"needed only for {purpose}")


def check_model_cache() -> Iterator[Check]:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    models = len(list(folder.glob("models--*")))
    offline = ", HF_HUB_OFFLINE is set: nothing is downloaded" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    yield Check("model cache", "info", f"{folder}: {models} models{offline}", "set HF_HOME to move it")


def examine(output: str, flink_jar: str | None) -> Iterator[Check]:
    """Make every check, in the order of the table."""
    yield Check("Python", "ok", platform.python_version())
    checks: list[Callable[[], Iterator[Check]]] = [
        check_names,
        check_packages,
        check_torch,
        check_transformers,
        check_vllm,
        check_memory,
        lambda: check_output(output),
        lambda: check_runners(flink_jar),
        check_credentials,
        check_model_cache,
    ]
    for check in checks:
        yield from check()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the examination; return 1 where something that is needed fails."""
    parser = Parser("alignbeam doctor", __doc__)
    parser.add_argument(
        "-o", "--output", default=".", help="where results will go: a folder or s3://, gs:// (default: .)"
    )
    parser.add_argument("--flink-jar", metavar="FILE", help="Beam's Flink job server, if you use the Flink runner")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: print_examination(arguments.output, arguments.flink_jar, as_json=arguments.json))


def json_of(check: Check) -> dict[str, str]:
    return {"name": check.name, "status": check.status, "found": check.finding, "advice": check.advice}


def print_examination(output: str, flink_jar: str | None, *, as_json: bool) -> int:
    with messages.status("looking (torch and vLLM take some seconds to import)"):
        checks = list(examine(output, flink_jar))
    failed = [check.name for check in checks if check.status == "fail"]
    code = FAILED if failed else DONE
    if as_json:
        report = {"ok": not failed, "checks": [json_of(check) for check in checks]}
        results.print(json.dumps(report, indent=2), soft_wrap=True)
        return code
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        text = Text(results.visible(check.finding))
        if check.advice:
            text.append(results.visible(f" → {check.advice}"), "bold")
        table.add_row(Text(check.status, STYLES[check.status]), check.name, text)
    results.print(table)
    results.print()
    if failed:
        results.print(f"failed: {', '.join(failed)}", style="bold red")
    else:
        results.print("nothing that is needed is missing")
    return code


if __name__ == "__main__":
    sys.exit(main())
