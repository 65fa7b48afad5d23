"""Files on any fsspec store (local, memory, s3, gs, hf). On a local disk one has its name only when it is whole."""

import errno
import glob
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import fsspec
import xxhash
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import StageError, UsageError
from schemas.names import check_name
from schemas.urls import WEB, redact_urls, redacted, without_query

T = TypeVar("T")
THREADS = 16
NO_LOCK = "is no plain file of one name, as a lock is; remove it if nobody is at work there"


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the store that a path lies on, and the path as that store writes it.

    UsageError where no store takes it.
    """
    if path.lower().startswith(tuple(f"{scheme}[" for scheme in WEB)):
        raise UsageError(f"{path}: an address in brackets (IPv6) cannot be opened; give the host's name")
    if "::" in path and os.path.lexists(path):
        raise UsageError(f"{path}: this file's name cannot be read, because :: chains stores in a path; rename it")
    try:
        if path.lower().startswith(WEB):
            _ = urlsplit(path).port
        return url_to_fs(path)
    except Exception as error:  # every store has errors of its own
        raise UsageError(f"{path}: this kind of path cannot be opened: {error}") from error


def join(directory: str, *names: str) -> str:
    """Return a path below a directory; the query of a URL stays its end. Below no directory it is the names alone."""
    bare = without_query(directory)
    return "/".join([bare.rstrip("/"), *names] if bare else names) + directory[len(bare) :]


@contextmanager
def open_output(path: str) -> Iterator[BinaryIO]:
    """Write a file whole, so that nobody sees half of it under its name.

    On a local disk it has a temporary name until it is whole, on a store it is one put. Raises StageError where the
    disk is full or the path may not be written; what was there before stays.
    """
    fs, local = filesystem(path)
    is_local = isinstance(fs, LocalFileSystem)
    target = f"{local}.tmp-{uuid.uuid4().hex[:8]}" if is_local else local
    try:
        if is_local:
            os.makedirs(os.path.dirname(local) or ".", exist_ok=True)
        with fs.open(target, "xb" if is_local else "wb") as file:  # x: not into a link that waits under that name
            yield file
        if is_local:
            os.replace(target, local)
    except OSError as error:
        if is_local and os.path.exists(target):
            os.remove(target)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StageError(f"{path}: no space left on the disk; make room and run the same command again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StageError(f"{path}: may not be written ({error.strerror})") from error
        raise
    except BaseException:
        if is_local and os.path.exists(target):
            os.remove(target)
        raise


def open_lock(path: str) -> BinaryIO:
    """Open a local file to lock it and write into it.

    It is made empty where it is absent. In a folder that others can write to, the name may be a link to a file of the
    user's, which would be emptied. UsageError where it is anything but a plain file of one name.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
            raise
        raise UsageError(f"{path}: {NO_LOCK}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise UsageError(f"{path}: {NO_LOCK}")
    return os.fdopen(descriptor, "r+b")


def write_json(path: str, value: object) -> None:
    """Write a plain value, with no URL's secret in it."""
    value = redacted(value)
    with open_output(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False).encode())


def read_json(path: str) -> dict:
    """Return a JSON object from a file; UsageError where the file is missing or broken."""
    fs, local = filesystem(path)
    try:
        with fs.open(local, "rb") as file:
            value = json.loads(file.read())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except ValueError as error:
        raise UsageError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: not a JSON object")
    return value


def exists(path: str) -> bool:
    fs, local = filesystem(path)
    return fs.exists(local)


def is_directory(path: str) -> bool:
    """Return whether a path is a directory.

    Raises UsageError where its store refuses to say, as for a URL whose time is over.
    """
    fs, local = filesystem(path)
    try:
        return fs.isdir(local)
    except Exception as error:  # every store has errors of its own
        raise UsageError(f"{path}: cannot be looked at: {error}") from error


def list_files(pattern: str) -> list[str]:
    """Return the paths that match a glob pattern, sorted; none if there are none.

    Each is usable wherever `pattern` was. Raises UsageError where the store cannot be asked.
    """
    fs, local = filesystem(pattern)
    try:
        paths = fs.glob(local)
    except Exception as error:  # every store has errors of its own
        raise UsageError(f"{pattern}: cannot be looked at: {error}") from error
    return _usable(fs, paths, fixed_part(local), pattern)


def is_inside(path: str, directory: str) -> bool:
    """Return whether a path is a directory or lies below it."""
    (fs, local), (home_fs, home) = filesystem(path), filesystem(directory)
    if isinstance(fs, LocalFileSystem):
        local, home = os.path.realpath(local), os.path.realpath(home)
    return type(fs) is type(home_fs) and f"{local.rstrip('/')}/".startswith(f"{home.rstrip('/')}/")


def list_in(directory: str, pattern: str) -> list[str]:
    """List the files below a directory that match a pattern; the directory's name is taken literally."""
    return list_files(join(glob.escape(directory), pattern))


def list_directory(directory: str) -> list[str]:
    """List the files and directories in a directory, sorted; there are none where it is absent."""
    fs, local = filesystem(directory)
    return sorted(_usable(fs, fs.ls(local, detail=False), local, directory)) if fs.isdir(local) else []


def size_of(path: str) -> int:
    """Return the bytes of a file, or of all files below a directory."""
    fs, local = filesystem(path)
    return fs.du(local)


def files_below(directory: str, is_wanted: Callable[[str], bool]) -> list[str]:
    """Return the wanted files in a directory and in those below it, sorted.

    Each is usable wherever `directory` was.
    """
    fs, local = filesystem(directory)
    listed = fs.find(local, detail=True).items()  # of a link, a local disk does not say what it leads to
    files = [path for path, info in listed if is_wanted(path) and (info["type"] == "file" or not fs.isdir(path))]
    return _usable(fs, files, local, directory)


def _usable(fs: fsspec.AbstractFileSystem, paths: Collection[str], home: str, asked: str) -> list[str]:
    """Return the paths that a store listed below `home`, as they are used.

    Raises UsageError for one that does not lie there.
    """
    inside = home.rstrip("/") + "/"
    for path in paths:
        check_name(path.removeprefix(inside), asked)
    return sorted(paths if isinstance(fs, LocalFileSystem) else map(fs.unstrip_protocol, paths))


def for_each(function: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """Return the function's results for every path, in order.

    Several run at once, because on a store each costs round trips.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, paths))


def fixed_part(pattern: str) -> str:
    """Return the folder below which all paths lie that match a glob pattern."""
    return folder_of(re.split(r"[*?\[]", pattern, maxsplit=1)[0])


def is_pattern(path: str) -> bool:
    """Return whether a path is a glob pattern, as one is not that exists under its own name."""
    return any(mark in path for mark in "*?[") and not exists(path)


def folder_of(path: str) -> str:
    """Return the folder of a path, whose name is taken literally."""
    folder, slash, _ = without_query(path).rpartition("/")
    return folder + slash if not folder or folder.endswith(":/") else folder  # a root keeps its slash


def relative(path: str, directory: str) -> str:
    """Return the path as seen from a directory that holds it.

    Of any other it is the whole path, with the name of its store. It is for names and records, so that no URL's secret
    is in it, and a local path is the same wherever it is seen from.
    """
    (fs, local), (_, home) = map(_normal, (path, directory or "."))
    if local.startswith(inside := home.rstrip("/") + "/"):
        return local.removeprefix(inside)
    return local if isinstance(fs, LocalFileSystem) else redact_urls(fs.unstrip_protocol(local))


def _normal(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the store of a path, and the path there without `..` if it is local."""
    fs, local = filesystem(path)
    return fs, os.path.normpath(local) if isinstance(fs, LocalFileSystem) else local


def content_digest(path: str) -> tuple[str, int]:
    """Return a hash of a file's bytes (xxh3-128) and how many there are."""
    fs, local = filesystem(path)
    digest, size = xxhash.xxh3_128(), 0
    with fs.open(local, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def mark(path: str) -> str:
    """Return a text that changes when a file is changed.

    It is the size, and the store's own mark of content or time. UsageError where the file is missing or may not be
    looked at.
    """
    fs, local = filesystem(path)
    try:
        info = fs.info(local)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    marks = (info.get(key) for key in ("ETag", "checksum", "mtime", "last_modified", "created"))
    return f"{info['size']} {next((mark for mark in marks if mark), '')}"


def remove(path: str) -> None:
    """Remove a file or a directory with all it holds; nothing happens where it is absent."""
    fs, local = filesystem(path)
    if fs.exists(local):
        fs.rm(local, recursive=True)


def move(path: str, target: str) -> None:
    """Give a file another name, in the place of one that has it."""
    fs, local = filesystem(path)
    if isinstance(fs, LocalFileSystem):
        os.makedirs(os.path.dirname(filesystem(target)[1]), exist_ok=True)
        os.replace(local, filesystem(target)[1])
    else:
        fs.mv(local, filesystem(target)[1])


def check_writable(directory: str) -> None:
    """Raise UsageError where nothing can be written under `directory`, before any work starts."""
    if not directory:
        raise UsageError("output: is empty; give a directory, such as -o runs/mine")
    probe = join(directory, f".probe-{uuid.uuid4().hex[:8]}")
    try:
        with open_output(probe) as file:
            file.write(b"probe")
        remove(probe)
    except (OSError, StageError, NotImplementedError) as error:
        reason = str(error) or "this kind of store can only be read"
        raise UsageError(f"{directory}: cannot write there: {reason}") from error
