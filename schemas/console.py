"""The only way to the terminal: two consoles that show the texts of others as texts, whatever stands in them.

A file name, a header, a server's error or a model's answer may hold characters that move the cursor, recolour the
screen, turn a line around or cannot be seen, or words that rich would take for its markup. Here no string is markup,
styles come from `Text` and `style=`, and hidden characters are shown as escapes, in a pipe as on a screen.
"""

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from schemas.urls import redact_urls

LOG_COLUMNS = 160
# Between letters of scripts that join, and in emoji, a joiner shapes what is seen; elsewhere it hides.
_JOINS = "[\u0300-\U0010ffff]"
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of writing
    r"\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
    r"\ufff0-\ufffb\U000e0000-\U000e0fff"  # of no width, or blank, or ends a line for some programs
    r"\ud800-\udfff]"  # half a character: bytes of a file name that are not UTF-8
    rf"|(?<!{_JOINS})[\u200c\u200d]|[\u200c\u200d](?!{_JOINS})"
)


def printable(text: object) -> str:
    """Return a text with its hidden characters as escapes, such as `\\x1b`."""
    return _HIDDEN.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class PlainConsole(Console):
    """A rich Console whose strings are no markup, and which writes only what can be seen and encoded."""

    @property  # type: ignore[misc]
    def size(self) -> ConsoleDimensions:
        """Return the terminal's size; in logs and pipes lines are long unless COLUMNS says otherwise."""
        if self.is_terminal or "COLUMNS" in os.environ:
            return super().size
        return ConsoleDimensions(LOG_COLUMNS, super().size.height)

    def visible(self, text: object) -> str:
        """Return a text as `printable` does, with escapes also for what the terminal's encoding lacks.

        For what goes into a `Text`; strings are made visible as they are rendered.
        """
        return printable(text).encode(self.encoding, "backslashreplace").decode(self.encoding)

    def render_str(self, text: str, *, style: Any = "", justify: Any = None, overflow: Any = None, **_: Any) -> Text:
        """Return a string as it stands; escapes are made here, before columns are measured."""
        return Text(self.visible(text), style=style, justify=justify, overflow=overflow)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything; what callers put into a `Text` themselves is made visible too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=self.visible(segment.text))


class MessageConsole(PlainConsole):
    """A console for what alignbeam says of its work: the URLs in it are shown without their secrets."""

    def render_str(self, text: str, *, style: Any = "", justify: Any = None, overflow: Any = None, **_: Any) -> Text:
        """Return a string as it stands, but for URLs' secrets and hidden characters."""
        return super().render_str(redact_urls(text), style=style, justify=justify, overflow=overflow)


results = PlainConsole(highlight=False)  # what was asked for: stdout
messages = MessageConsole(highlight=False, stderr=True)  # progress, results in short, errors: stderr


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        messages.print(self.format(record), soft_wrap=True)


def take_over() -> None:
    """Send logs, warnings and traces of uncaught errors through the console.

    A process that has its own way keeps it.
    """
    handler = _Handler(logging.WARNING)
    logging.basicConfig(format="%(message)s", handlers=[handler])
    logging.captureWarnings(True)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_trace
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda error: _print_trace(error.exc_type, error.exc_value, error.exc_traceback)


def _print_trace(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if kind is not SystemExit:
        messages.print("".join(traceback.format_exception(kind, error, trace)), end="", soft_wrap=True)
