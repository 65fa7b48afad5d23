"""Lock a run directory: one process at a time.

Two processes would remove each other's unfinished parts.
"""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from fsspec.implementations.local import LocalFileSystem

from schemas.errors import UsageError
from transforms.tables import storage

NOTE = "at_work.lock"  # host and process of the one at work


@contextmanager
def at_work(directory: str) -> Iterator[None]:
    """Hold a stage's or run's directory within the block; UsageError where another process holds it.

    On a local disk a lock on the note says so, which ends with the process, however that ends. A store has no locks:
    there another process of this machine is found by its number, and one of another machine is not.
    """
    path = storage.join(directory, NOTE)
    note = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
    fs, local = storage.filesystem(path)
    if isinstance(fs, LocalFileSystem):
        with _locked(local, directory) as file:
            file.truncate(0)
            file.write(note)
            file.flush()
            try:
                yield
            finally:
                with suppress(FileNotFoundError):
                    os.remove(local)
        return
    owner = storage.read_json(path) if storage.exists(path) else {}
    if owner.get("host") == socket.gethostname() and _is_other(owner["process"]):
        raise _refusal(directory, owner["process"])
    with storage.open_output(path) as file:
        file.write(note)
    try:
        yield
    finally:
        storage.remove(path)


@contextmanager
def _locked(local: str, directory: str) -> Iterator[BinaryIO]:
    while True:
        with storage.open_lock(local) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                process = "another"
                with suppress(ValueError):  # it is being written
                    process = json.loads(file.read())["process"]
                raise _refusal(directory, process) from error
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):  # a file system without locks
                    raise
            if os.path.lexists(local) and os.path.samestat(os.fstat(file.fileno()), os.lstat(local)):
                yield file
                return
        # The one before removed the file just then: this lock is on no file, so once more.


def _is_other(process: int) -> bool:
    """Return whether another process of that number is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return process != os.getpid()


def _refusal(directory: str, process: int | str) -> UsageError:
    return UsageError(f"{directory}: process {process} is at work there; wait for it, or choose another output")
