"""URLs without their secrets, for all that is written down or printed; what opens a URL has it whole."""

import re
from typing import Any

SECRET = "***"
WEB = ("http://", "https://")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
URL = re.compile(rf"{SCHEME.pattern}[^\s\"'<>`]*[^\s\"'<>`:;,.?)\]]")  # in a sentence
USER = re.compile(r"(?<=://)[^/?#]*@")
PASSWORD = re.compile(r"(?<=://)[^/?#@:]*:(?!\d+(?:/|$))[^@]*@")  # not a port; keys of S3 have slashes in them
QUERY = re.compile(r"\?(?=[^/=]+=)")  # elsewhere than on the web a ? may be a glob's
# Parameters that say which file is meant; of all others only the name is kept.
PLAIN = frozenset({"id", "file", "filename", "name", "path", "page", "version", "versionId", "revision", "raw", "dl"})


def redact_urls(text: object) -> str:
    """Return a text whose URLs hold no password.

    Of a query they keep only what says which file is meant.
    """
    text = str(text)
    if SCHEME.match(text) and not re.search(r"\s", text):
        return _redact(text)
    return URL.sub(lambda match: _redact(match[0]), text)


def redacted(value: Any) -> Any:
    """Return a plain value, as JSON has it, with every text and name in it redacted."""
    if isinstance(value, str):
        return redact_urls(value) if "://" in value else value
    if isinstance(value, dict):
        return {redacted(name): redacted(item) for name, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def without_query(path: str) -> str:
    """Return a URL of the web without query and fragment, any other path as it is."""
    return re.split("[?#]", path, maxsplit=1)[0] if path.lower().startswith(WEB) else path


def _redact(url: str) -> str:
    """Write `https://me:word@host/a.csv?id=5&sig=x` as `https://***@host/a.csv?id=5&sig=***`."""
    url = PASSWORD.sub(f"{SECRET}@", url)
    if not url.lower().startswith(WEB):
        before, *query = QUERY.split(url, maxsplit=1)
        return before + "".join(f"?{_parameters(text)}" for text in query)
    url = USER.sub(f"{SECRET}@", url)
    url, fragment, _ = url.partition("#")
    before, question, query_text = url.partition("?")
    return before + (question and f"?{_parameters(query_text)}") + (fragment and f"#{SECRET}")


def _parameters(query: str) -> str:
    pairs = (text.partition("=") for text in re.split("[&;]", query))
    return "&".join(
        f"{name}{equals}{value if name in PLAIN else SECRET}" if equals else name and SECRET
        for name, equals, value in pairs
    )
