"""Segments of the response cache on disk, and the one index over them.

A segment is an Arrow IPC file that is written whole and never changed. The index is one sorted array of keys and
places that is memory-mapped, so that opening a cache of any size costs a worker nothing.
"""

import logging
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import UsageError
from schemas.names import check_name
from transforms.tables import storage

BATCH_ROWS = 512  # what is decoded at once
SMALL_BYTES = 8 << 20
MERGED_BYTES = 64 << 20
INDEX = "index.json"
BROKEN = (pa.ArrowException, OSError, ValueError)  # what reading a damaged segment raises

SEGMENT_SCHEMA = pa.schema(
    [
        ("key", pa.binary(16)),
        ("text", pa.string()),
        ("reasoning", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
    ]
)

log = logging.getLogger(__name__)


class Index(NamedTuple):
    """Where each key lies. `array` is uint64 of shape [3, keys]: first and second half of the key, and its place
    (segment << 40 | batch << 20 | row), sorted by key; the rows are contiguous, so a search touches few pages."""

    segments: list[str]
    array: np.ndarray


def open_indexes(directory: str) -> list[Index]:
    """The saved index, and one of the segments that were written since."""
    saved = load_index(directory)
    known = set(saved.segments)
    names = [name for name in segment_names(directory) if name not in known]
    return [saved, Index(names, index_array(directory, names))]


def update_index(directory: str, saved: Index, names: list[str]) -> Index:
    """The index of the segments `names`; those with which the saved one begins too are not read again."""
    known = next((n for n, pair in enumerate(zip_longest(saved.segments, names)) if len(set(pair)) > 1), len(names))
    array = saved.array if known == len(saved.segments) else saved.array[:, saved.array[2] >> 40 < known]
    new = index_array(directory, names[known:], first=known)
    new = np.delete(new, find(array, new[:2].T.ravel())[0], axis=1)  # of equal keys, the lowest place stays
    return Index(names, np.insert(array, np.searchsorted(array[0], new[0]), new, axis=1))


def index_array(directory: str, names: list[str], first: int = 0) -> np.ndarray:
    """The index array of segments, which are counted from `first`."""
    halves, places = [np.empty((0, 2), np.uint64)], [np.empty(0, np.uint64)]
    for number, name in enumerate(names, first):
        try:
            with open_segment(directory, name, columns=[0]) as reader:
                keys = [reader.get_batch(batch).column(0) for batch in range(reader.num_record_batches)]
        except BROKEN as error:
            log.warning("%s: not a whole cache segment, left out (%s)", storage.join(directory, name), error)
            continue
        halves.extend(_halves(column) for column in keys)
        places.extend(places_of(number, batch, len(column)) for batch, column in enumerate(keys))
    return sorted_array(np.concatenate(halves), np.concatenate(places))


def _halves(keys: pa.FixedSizeBinaryArray) -> np.ndarray:
    return np.frombuffer(keys.buffers()[1], np.uint64).reshape(-1, 2)[keys.offset : keys.offset + len(keys)]


def places_of(segment: int, batch: int, rows: int) -> np.ndarray:
    return np.arange(rows, dtype=np.uint64) + np.uint64(segment << 40 | batch << 20)


def sorted_array(halves: np.ndarray, places: np.ndarray) -> np.ndarray:
    """An index array [3, keys] of key halves [rows, 2] and places [rows]; of equal keys the lowest place stays."""
    order = np.lexsort((places, halves[:, 1], halves[:, 0]))
    array = np.stack([halves[order, 0], halves[order, 1], places[order]])
    first = np.ones(len(order), bool)
    first[1:] = (array[:2, 1:] != array[:2, :-1]).any(axis=0)
    return np.ascontiguousarray(array[:, first])


def find(array: np.ndarray, keys: np.ndarray) -> tuple[list[int], list[int]]:
    """Which of `keys` (uint64 halves, flat) an index array holds, and their places."""
    high, low = keys[0::2], keys[1::2]
    at = np.searchsorted(array[0], high)
    rows: list[int] = []
    places: list[int] = []
    candidates = np.arange(len(high))
    while True:  # once, unless two keys share their first half
        candidates = candidates[at[candidates] < array.shape[1]]
        candidates = candidates[array[0, at[candidates]] == high[candidates]]
        if not len(candidates):
            return rows, places
        hit = array[1, at[candidates]] == low[candidates]
        rows.extend(candidates[hit].tolist())
        places.extend(array[2, at[candidates[hit]]].tolist())
        candidates = candidates[~hit]
        at[candidates] += 1


def segment_names(directory: str) -> list[str]:
    return [os.path.basename(path) for path in storage.list_in(directory, "*.arrow")]


@contextmanager
def open_segment(directory: str, name: str, columns: list[int] | None = None) -> Iterator[pa.RecordBatchFileReader]:
    fs, local = storage.filesystem(storage.join(directory, name))
    options = pa.ipc.IpcReadOptions(included_fields=columns)
    file = pa.memory_map(local) if isinstance(fs, LocalFileSystem) else fs.open(local, "rb")
    with file, pa.ipc.open_file(file, options=options) as reader:
        yield reader


def write_segment(path: str, batches: Iterable[pa.RecordBatch]) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with storage.open_output(path) as file, pa.ipc.new_file(file, SEGMENT_SCHEMA, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)


def merge_small(directory: str, names: list[str]) -> None:
    """Merge neighbouring small segments, in order, into ones of up to MERGED_BYTES."""
    group: list[str] = []
    group_bytes = 0
    for name in names:
        size = _size(storage.join(directory, name))
        if size > SMALL_BYTES or group_bytes + size > MERGED_BYTES:
            _merge(directory, group)
            group, group_bytes = [], 0
        if size <= SMALL_BYTES:
            group.append(name)
            group_bytes += size
    _merge(directory, group)


def _merge(directory: str, names: list[str]) -> None:
    readable = [name for name in names if _is_whole(directory, name)]
    if len(readable) < 2:
        return
    first = readable[0].removesuffix(".arrow").split("+")[0]
    target = storage.join(directory, f"{first}+{uuid.uuid4().hex[:12]}.arrow")
    write_segment(target, _regrouped(directory, readable))
    for name in readable:
        storage.remove(storage.join(directory, name))


def _regrouped(directory: str, names: list[str]) -> Iterator[pa.RecordBatch]:
    waiting: list[pa.RecordBatch] = []
    for name in names:
        with open_segment(directory, name) as reader:
            for number in range(reader.num_record_batches):
                waiting.append(reader.get_batch(number))
                if sum(batch.num_rows for batch in waiting) >= BATCH_ROWS:
                    yield pa.concat_batches(waiting)
                    waiting = []
    if waiting:
        yield pa.concat_batches(waiting)


def _is_whole(directory: str, name: str) -> bool:
    try:
        with open_segment(directory, name) as reader:
            for number in range(reader.num_record_batches):
                reader.get_batch(number).validate(full=True)
            return reader.schema.equals(SEGMENT_SCHEMA)
    except BROKEN:
        return False


def _size(path: str) -> int:
    fs, local = storage.filesystem(path)
    return fs.size(local)


def save_index(directory: str, index: Index) -> None:
    name = f"index-{uuid.uuid4().hex[:12]}.npy"
    with storage.open_output(storage.join(directory, name)) as file:
        np.save(file, index.array)
    storage.write_json(storage.join(directory, INDEX), {"array": name, "segments": index.segments})
    for path in storage.list_in(directory, "index-*.npy"):
        if os.path.basename(path) != name:
            storage.remove(path)


def load_index(directory: str) -> Index:
    """The saved index, an empty one where there is none that can be read."""
    empty = Index([], np.empty((3, 0), np.uint64))
    if not storage.exists(storage.join(directory, INDEX)):
        return empty
    try:
        saved = storage.read_json(storage.join(directory, INDEX))
        for name in (saved["array"], *saved["segments"]):
            check_name(name, storage.join(directory, INDEX))
        fs, local = storage.filesystem(storage.join(directory, saved["array"]))
        if isinstance(fs, LocalFileSystem):
            return Index(saved["segments"], np.load(local, mmap_mode="r"))
        with tempfile.NamedTemporaryFile(suffix=".npy") as copy:
            fs.get_file(local, copy.name)
            return Index(saved["segments"], np.load(copy.name, mmap_mode="r"))
    except (UsageError, OSError, EOFError, ValueError, KeyError) as error:
        log.warning("%s: the cache's index cannot be read and is made anew (%s)", directory, error)
        return empty
