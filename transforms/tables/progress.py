"""How far each step has come, counted in this process: Beam's own metrics are silent while a local pipeline runs.

For display only. What a stage did is counted from the tables it wrote.
"""

import threading
import time
from dataclasses import dataclass, field, replace


@dataclass
class Progress:
    """`done` rows, of them `cached` ones; tokens generated here; seconds since the step's first row."""

    done: int = 0
    cached: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)


_lock = threading.Lock()
_steps: dict[str, Progress] = {}


def add(step: str, *, done: int = 0, cached: int = 0, generated_tokens: int = 0) -> None:
    with _lock:
        progress = _steps.setdefault(step, Progress())
        progress.done += done
        progress.cached += cached
        progress.generated_tokens += generated_tokens


def snapshot() -> dict[str, Progress]:
    """Return a copy of every step's counts as they are now."""
    now = time.monotonic()
    with _lock:
        return {step: replace(progress, seconds=now - progress.started) for step, progress in _steps.items()}


def reset(step: str) -> None:
    """Forget a step, before it is run again in the same process."""
    with _lock:
        _steps.pop(step, None)
