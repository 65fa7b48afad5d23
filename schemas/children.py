"""Python programs of our own that we start: what they import, and what they do not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def child_environment() -> dict[str, str]:
    """Return the environment of a Python program that we start.

    It finds our packages wherever it is started. Neither it nor its own children import from the folder in which they
    are started: that may be any folder of data, and `python -m` and `python -c` would put it before all else. An empty
    part of PYTHONPATH means that folder too, and is left out.
    """
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


@contextmanager
def as_child_environment() -> Iterator[None]:
    """Have what libraries start within the block see the environment of `child_environment`."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH")}
    os.environ.update(child_environment())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
