"""What corpus files hold: each is looked into once, and again where it was changed.

A process remembers what it has seen. `note` writes it down beside what is made of the files, and a later process that
recalls the notes looks into those files alone that are new or changed.
"""

from collections.abc import Sequence

from schemas.urls import redact_urls
from transforms.corpora.fields import Kind, Look, look_at
from transforms.corpora.records import NoRecord
from transforms.tables import storage
from transforms.tables.identity import content_id

LOOKS = "looks.json"  # the name of the notes

Seen = Look | NoRecord
_seen: dict[str, Seen] = {}  # by all that decides what a file looks like, its size and time among it
_recalled: set[str] = set()  # the notes read, with their marks


def look_at_all(
    files: Sequence[str], kind: Kind, flags: dict[str, str | None], limit: int | None
) -> dict[str, tuple[str, Seen]]:
    """Return every file's mark and columns, or why nothing of it can be read."""

    def look(path: str) -> tuple[str, Seen]:
        mark = storage.mark(path)
        key = _key(path, mark, kind, flags, limit)
        if key not in _seen:
            try:
                _seen[key] = look_at(path, kind, flags, limit)
            except NoRecord as error:
                _seen[key] = error
        return mark, _seen[key]

    return dict(zip(files, storage.for_each(look, files), strict=True))


def note(
    path: str, seen: dict[str, tuple[str, Seen]], kind: Kind, flags: dict[str, str | None], limit: int | None
) -> None:
    """Write down what files hold, unless that is written there; a file of which nothing can be read is left out."""
    notes = {
        _key(file, mark, kind, flags, limit): look.to_json()
        for file, (mark, look) in seen.items()
        if isinstance(look, Look)
    }
    if not storage.exists(path) or storage.read_json(path).keys() != notes.keys():
        storage.write_json(path, notes)


def recall(path: str) -> None:
    """Read notes of an earlier process."""
    if not storage.exists(path) or (recalled := f"{path} {storage.mark(path)}") in _recalled:
        return
    for key, values in storage.read_json(path).items():
        _seen.setdefault(key, Look.from_json(values))
    _recalled.add(recalled)


def forget() -> None:
    """Forget what this process has seen, as another process would not know it."""
    _seen.clear()
    _recalled.clear()


def _key(path: str, mark: str, kind: Kind, flags: dict[str, str | None], limit: int | None) -> str:
    return content_id(redact_urls(path), mark, kind, str(flags), str(limit))
