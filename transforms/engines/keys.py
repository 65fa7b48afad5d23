"""Keys of servers: the environment says which key goes to which address, and no setting does.

    export ALIGNBEAM_KEYS="api.example.com=EXAMPLE_KEY localhost:8000=LOCAL_KEY [::1]:8000=LOCAL_KEY"

binds the key in $EXAMPLE_KEY to https://api.example.com, that in $LOCAL_KEY to port 8000 of this machine; the port is
443 unless given. OpenAI's own address has $OPENAI_API_KEY without being bound. Any other server gets no key.
"""

import os
import re
from urllib.parse import urlsplit

from schemas.errors import UsageError

VARIABLE = "ALIGNBEAM_KEYS"
OPENAI = "api.openai.com:443"
BINDING_HINT = f"a key is bound to its server in the environment: {VARIABLE}='HOST:PORT=VARIABLE'"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
PORTS = {"http": 80, "https": 443}

HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[1-9]\d{0,3}|:[1-5]\d{4}|:6[0-4]\d{3})?"
BASE_URL = re.compile(rf"https?://{HOST}(?:/[A-Za-z0-9._~/-]*)?")
BINDING = re.compile(rf"({HOST})=([A-Za-z_][A-Za-z0-9_]*)")


def is_plain_url(url: str) -> bool:
    """Return whether a URL is so plain that all programs read the same host in it."""
    return BASE_URL.fullmatch(url) is not None


def key_for(base_url: str) -> str | None:
    """Return the key that the environment binds to this address, or None.

    UsageError where the binding cannot be read, its variable is empty, or the key would cross a network in plain HTTP.
    """
    scheme, address = urlsplit(base_url).scheme, address_of(base_url)
    bound = bindings()
    variable = bound.get(address)
    if variable is None:
        return os.environ.get("OPENAI_API_KEY") or None if (scheme, address) == ("https", OPENAI) else None
    if scheme == "http" and not stays_here(base_url):
        raise UsageError(
            f"engine.base_url = {base_url!r}: a key is bound to it, which plain http would show; use https"
        )
    if not (key := os.environ.get(variable)):
        # Its name is not told: whoever mistook the form may have written the key itself.
        raise UsageError(
            f"{VARIABLE}: the variable that it binds to {address} is not set here; it is HOST:PORT=VARIABLE"
        )
    return key


def bindings() -> dict[str, str]:
    """Return the variable of every bound address; UsageError where an entry is no binding."""
    bound: dict[str, str] = {}
    for number, entry in enumerate(os.environ.get(VARIABLE, "").split(), 1):
        parts = BINDING.fullmatch(entry)
        if parts is None:
            raise UsageError(
                f"{VARIABLE}: entry {number} is no binding; expected HOST=VARIABLE or HOST:PORT=VARIABLE, such as "
                "api.example.com=EXAMPLE_KEY (the name of the variable that holds the key)"
            )
        address = address_of(f"https://{parts[1]}")
        if bound.setdefault(address, parts[2]) != parts[2]:
            raise UsageError(f"{VARIABLE}: binds two variables to {address}; leave one out")
    return bound


def how_to_bind(base_url: str) -> str:
    """Return how the environment binds a key to this server."""
    crosses = base_url.startswith("http://") and not stays_here(base_url)
    address = "HOST" if crosses else address_of(base_url).removesuffix(":443")
    return f"{'reach it by https, and ' if crosses else ''}set {VARIABLE}='{address}=VARIABLE' in the environment"


def address_of(base_url: str) -> str:
    """Return host and port of a URL, as in `api.example.com:443`."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or PORTS[parts.scheme]}"


def stays_here(base_url: str) -> bool:
    """Return whether what is sent to a URL stays on this machine, though it is plain http."""
    return base_url.startswith("http://") and urlsplit(base_url).hostname in LOOPBACK
