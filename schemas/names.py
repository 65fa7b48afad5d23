"""Names that come from a file or a server: one function decides what they may be."""

import re
from urllib.parse import unquote

from schemas.errors import UsageError

DRIVE = re.compile("[A-Za-z]:")


def check_name(name: object, source: str) -> str:
    """Return a name from a file or a server, if it stays below its folder.

    `source` says where it stands. UsageError where it would lead elsewhere on some store: `..`, absolute paths, drives,
    home folders, protocols and chains of fsspec, backslashes, NUL, and all these URL-encoded.
    """
    text = str(name)
    while True:
        parts = text.split("/")
        leads_away = (
            {"", ".", ".."} & set(parts)  # an empty part: the first of an absolute path, or a protocol's ://
            or "::" in text
            or "\\" in text
            or "\0" in text
            or DRIVE.fullmatch(parts[0])
            or (parts[0].startswith("~") and (len(parts) > 1 or text == "~"))
        )
        if leads_away or not isinstance(name, str):
            raise UsageError(f"{source}: names {name!r}, which does not lie below its folder; rename or remove it")
        if text == (decoded := unquote(text)):
            return name
        text = decoded
