"""Segments of the response cache on disk, and the one index over them.

A segment is an Arrow IPC file that is written whole and never changed. The index is one sorted array of keys and
addresses. It is memory-mapped, so that opening a cache of any size costs a worker nothing.

Shapes: K keys in an index, N keys looked up; a key of 16 bytes is 2 halves; with its address that makes 3 rows.
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
    """Where each of K keys lies: the names of segments, and the array, uint64[3, K] sorted by key.

    The array's rows are the first halves of the keys, their second halves, and the addresses of their completions. Each
    row is contiguous, so a search touches few pages.
    """

    segments: list[str]
    array: np.ndarray


def open_indexes(directory: str) -> list[Index]:
    """Return the saved index, and one of the segments written since."""
    saved = load_index(directory)
    indexed = set(saved.segments)
    names = [name for name in segment_names(directory) if name not in indexed]
    return [saved, Index(names, index_array(directory, names))]


def update_index(directory: str, saved: Index, names: list[str]) -> Index:
    """Return the index of the segments `names`, reading only those that differ from the saved index's."""
    # saved a b c, names a b d → 2 in common: of `saved` the addresses in a and b stay, d is read as segment 2
    pairs = enumerate(zip_longest(saved.segments, names))
    common = next((number for number, (before, now) in pairs if before != now), len(names))
    kept_3K = saved.array
    if common < len(saved.segments):
        kept_3K = saved.array[:, saved.array[2] >> 40 < common]
    # Of equal keys the lowest address stays, so what is read of a key that is kept goes.
    # kept [2 5 9], read [5 7 9] → doubles 0 and 2, new [7], put before column 2: [2 5 7 9]
    read_3K = index_array(directory, names[common:], first=common)
    doubles, _ = match_keys(kept_3K, read_3K[:2].T.ravel())
    new_3K = np.delete(read_3K, doubles, axis=1)
    columns = np.searchsorted(kept_3K[0], new_3K[0])
    return Index(names, np.insert(kept_3K, columns, new_3K, axis=1))


def index_array(directory: str, names: list[str], first: int = 0) -> np.ndarray:
    """Return the index array of segments, which are counted from `first`: uint64[3, K]."""
    keys_K2, addresses = [np.empty((0, 2), np.uint64)], [np.empty(0, np.uint64)]
    for number, name in enumerate(names, first):
        try:
            with open_segment(directory, name, columns=[0]) as reader:
                batches = [reader.get_batch(batch).column(0) for batch in range(reader.num_record_batches)]
        except BROKEN as error:
            log.warning("%s: not a whole cache segment, left out (%s)", storage.join(directory, name), error)
            continue
        keys_K2.extend(_halves(keys) for keys in batches)
        addresses.extend(addresses_of(number, batch, len(keys)) for batch, keys in enumerate(batches))
    return sorted_array(np.concatenate(keys_K2), np.concatenate(addresses))


def _halves(keys: pa.FixedSizeBinaryArray) -> np.ndarray:
    """Return K keys as two numbers each, without a copy: uint64[K, 2]."""
    return np.frombuffer(keys.buffers()[1], np.uint64).reshape(-1, 2)[keys.offset : keys.offset + len(keys)]


def addresses_of(segment: int, batch: int, rows: int) -> np.ndarray:
    """Return the addresses of a batch's rows, which `parts_of` takes apart: uint64[rows]."""
    # segment 1, batch 2, 3 rows → 0x1_00002_00000, 0x1_00002_00001, 0x1_00002_00002: five hex digits each
    return np.arange(rows, dtype=np.uint64) + np.uint64(segment << 40 | batch << 20)


def parts_of(address: int) -> tuple[int, int, int]:
    """Return the segment, the batch and the row of an address."""
    return address >> 40, address >> 20 & 0xFFFFF, address & 0xFFFFF


def sorted_array(keys_K2: np.ndarray, addresses: np.ndarray) -> np.ndarray:
    """Return the index array of keys in any order: uint64[3, K or less].

    Of equal ones the lowest address stays.
    """
    # keys (5 2) (3 1) (5 2), addresses 8 7 6 → in order of key, then address: 1, 2, 0
    # index_3K  [3 5 5]  is_first [1 1 0] →  [3 5]
    #           [1 2 2]                      [1 2]
    #           [7 6 8]                      [7 6]
    order = np.lexsort((addresses, keys_K2[:, 1], keys_K2[:, 0]))
    index_3K = np.stack([keys_K2[order, 0], keys_K2[order, 1], addresses[order]])
    is_first = np.ones(len(order), bool)
    is_first[1:] = (index_3K[:2, 1:] != index_3K[:2, :-1]).any(axis=0)
    return np.ascontiguousarray(index_3K[:, is_first])


def match_keys(index_3K: np.ndarray, keys: np.ndarray) -> tuple[list[int], list[int]]:
    """Return which of N keys (uint64[2 N], half after half) an index array holds, with addresses."""
    # index_3K  [3 5 5 9]   keys (5 8) (4 1) → columns [1 1], the first whose first half is not smaller
    #           [1 2 8 1]   turn 1: (5 8) meets (5 2), so it tries column 2; (4 1) meets a 5: it is not there
    #           [0 1 2 3]   turn 2: (5 8) meets (5 8): key 0 is at address 2
    first, second = keys[0::2], keys[1::2]
    columns = np.searchsorted(index_3K[0], first)
    rows: list[int] = []
    addresses: list[int] = []
    waiting = np.arange(len(first))
    while True:  # once, unless two keys share their first half
        waiting = waiting[columns[waiting] < index_3K.shape[1]]
        waiting = waiting[index_3K[0, columns[waiting]] == first[waiting]]
        if not len(waiting):
            return rows, addresses
        is_match = index_3K[1, columns[waiting]] == second[waiting]
        matched = waiting[is_match]
        rows.extend(matched.tolist())
        addresses.extend(index_3K[2, columns[matched]].tolist())
        waiting = waiting[~is_match]
        columns[waiting] += 1


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
    """Merge neighbouring small segments, in order, into ones of up to MERGED_BYTES.

    A merged segment's name begins with its first one's, so it sorts where that did. It is whole before the small ones
    are removed; a crash in between leaves doubles, of which the lowest name wins.
    """
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


def dead_segments(directory: str) -> list[str]:
    """Return the segments that answer nothing.

    They cannot be read, or every key of theirs is in a segment of a lower name.
    """
    names = segment_names(directory)
    living = set((index_array(directory, names)[2] >> np.uint64(40)).tolist())
    return [name for number, name in enumerate(names) if number not in living]


def save_index(directory: str, index: Index) -> None:
    name = f"index-{uuid.uuid4().hex[:12]}.npy"
    with storage.open_output(storage.join(directory, name)) as file:
        np.save(file, index.array)
    storage.write_json(storage.join(directory, INDEX), {"array": name, "segments": index.segments})
    for path in storage.list_in(directory, "index-*.npy"):
        if os.path.basename(path) != name:
            storage.remove(path)


def load_index(directory: str) -> Index:
    """Return the saved index, or an empty one where none can be read."""
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
