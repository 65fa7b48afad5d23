"""Every run in a process of its own, what is compared taking turns: a machine is not as fast all the time."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

Result = dict[str, Any]


def run_alone(module: str, *arguments: str, **settings: Any) -> Result:
    """What `python -m MODULE ARGUMENTS --run SETTINGS RESULT` wrote, as JSON; the end of its log where it failed."""
    with tempfile.TemporaryDirectory(prefix="alignbeam-run-") as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        command = [sys.executable, "-m", module, *arguments, "--run", json.dumps(settings), str(result)]
        with open(log, "wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            try:
                process.wait()
            finally:
                with suppress(ProcessLookupError):  # what it started and left behind
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
        return json.loads(result.read_text())


def take_turns(runs: Mapping[str, Callable[[], Result]], times: int) -> dict[str, list[Result]]:
    """The results of each, by name; each time another one goes first."""
    results: dict[str, list[Result]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(times):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            results[name].append(runs[name]())
            print(f"{name}, run {turn + 1}: {results[name][-1]}", flush=True)
    return results


def middle(results: list[Result], key: str) -> float:
    return median(result[key] for result in results)


def rates(results: list[Result], rows: int) -> str:
    """Rows per second: the median, and between what it lies."""
    found = [rows / result["seconds"] for result in results]
    return f"{median(found):,.1f} ({min(found):,.1f}–{max(found):,.1f})"


def peak_mb() -> float:
    """Peak memory of this process and of the largest that it started and that has ended."""
    # ru_maxrss of a process begins with its parent's, and VmHWM does not.
    status = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return (own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
