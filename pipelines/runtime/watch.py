"""What a user sees while a stage works: rows done, rate, tokens per second, time left."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from schemas.console import messages
from transforms.tables import progress

REFRESH_SECONDS = 0.5
LINE_SECONDS = 30.0


@contextmanager
def watch(total: int) -> Iterator[None]:
    """Show the counts of transforms.tables.progress until the block ends.

    Every step is expected to do `total` rows. On a terminal as bars, elsewhere (logs, schedulers) as a line every half
    minute.
    """
    for step in progress.snapshot():
        progress.reset(step)
    stop = threading.Event()
    show = _bars if messages.is_terminal else _lines
    thread = threading.Thread(target=show, args=(total, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def rate_text(counts: progress.Progress) -> str:
    """Say rate, generated tokens per second and how much came from the cache."""
    seconds = max(counts.seconds, 1e-9)
    parts = [f"{counts.done / seconds:,.0f} rows/s"]
    if counts.generated_tokens:
        parts.append(f"{counts.generated_tokens / seconds:,.0f} tokens/s")
    if counts.cached:
        parts.append(f"{counts.cached:,} from the cache")
    return ", ".join(parts)


def _bars(total: int, stop: threading.Event) -> None:
    bars = Bars(
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
    )
    tasks = {}
    with bars:
        while not stop.wait(REFRESH_SECONDS):
            for step, counts in progress.snapshot().items():
                if step not in tasks:
                    tasks[step] = bars.add_task(messages.visible(step), total=total, rate="")
                bars.update(tasks[step], completed=counts.done, rate=rate_text(counts))


def _lines(total: int, stop: threading.Event) -> None:
    while not stop.wait(LINE_SECONDS):
        for step, counts in progress.snapshot().items():
            line = f"{time.strftime('%H:%M:%S')}  {step}: {counts.done:,} of {total:,} rows"
            if counts.done:
                left = (total - counts.done) * counts.seconds / counts.done
                line += f", {rate_text(counts)}, about {left / 60:,.1f} min left"
            messages.print(line)
