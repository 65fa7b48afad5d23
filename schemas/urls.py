"""URLs without their secrets, for all that is written down or printed; what opens a URL has it whole."""

import re
from typing import Any

SECRET = "***"
WEB = ("http://", "https://")
# A Path has one slash of the two left; a single letter before it is a drive.
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z][A-Za-z0-9+.-]+:/")
# In a sentence. A quote ends a URL unless the URL's text goes on behind it.
URL = re.compile(
    rf"(?:{SCHEME.pattern})(?:[^\s/?#]*@)?"
    r"(?:[^\s\"'<>`]|[\"'<>`]+(?=[^\s\"'<>`:;,.?)\]}\\]))*[^\s\"'<>`:;,.?)\]]"
)
USER = re.compile(r"^[^/?#]*@")
PASSWORD = re.compile(r"^[^/?#@:]*:(?!\d+(?:/|$))[^@]*@")  # not a port; keys of S3 have slashes in them
# Behind a space in a URL.
PARAMETER = re.compile(r"(?<=[?&])([\w.%~+-]+)=([^\s&;]*[^\s&\"'<>`:;,.?)\]])")
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
    if not SCHEME.search(text):
        return text
    text = URL.sub(lambda match: _redact(match[0]), text)
    return PARAMETER.sub(lambda match: _parameters(match[0]), text)


def redacted(value: Any) -> Any:
    """Return a plain value, as JSON has it, with every text and name in it redacted."""
    if isinstance(value, str):
        return redact_urls(value) if ":/" in value else value
    if isinstance(value, dict):
        return {redacted(name): redacted(item) for name, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def without_query(path: str) -> str:
    """Return a URL of the web without query and fragment, any other path as it is."""
    return re.split("[?#]", path, maxsplit=1)[0] if path.lower().startswith(WEB) else path


def _redact(url: str) -> str:
    """Write `https://me:word@host/a.csv?id=5&sig=x` as `https://***@host/a.csv?id=5&sig=***`."""
    scheme = SCHEME.match(url)[0]  # type: ignore[index]
    url = PASSWORD.sub(f"{SECRET}@", url[len(scheme) :])
    if not scheme.lower().startswith(("http:", "https:")):
        before, *query = QUERY.split(url, maxsplit=1)
        return scheme + before + "".join(f"?{_parameters(text)}" for text in query)
    url = USER.sub(f"{SECRET}@", url)
    url, fragment, _ = url.partition("#")
    before, question, query_text = url.partition("?")
    return scheme + before + (question and f"?{_parameters(query_text)}") + (fragment and f"#{SECRET}")


def _parameters(query: str) -> str:
    pairs = (text.partition("=") for text in re.split("[&;]", query))
    return "&".join(
        f"{name}{equals}{value if name in PLAIN else SECRET}" if equals else name and SECRET
        for name, equals, value in pairs
    )
