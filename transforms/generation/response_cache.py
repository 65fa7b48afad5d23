"""The response cache: a completion is written down as soon as it is there, and never asked for again.

A worker appends segments of its own (transforms.generation.cache_index); `compact_and_index` merges small ones and
indexes all as a stage starts. Errors are not cached. Where two segments answer the same request, the lowest name wins.
Index arrays have the shape [3, K], for K keys.
"""

import atexit
import contextlib
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import xxhash

from schemas.errors import StageError
from transforms.engines.engine import Completion, Sampling, digest_of
from transforms.generation import cache_index
from transforms.generation.cache_index import BROKEN, SEGMENT_SCHEMA, Index
from transforms.tables import storage

FLUSH_ROWS = 512  # at most so many completions are ever unwritten
FLUSH_SECONDS = 5.0
DECODED_BATCHES = 32
MERGED_KEYS = 1 << 17  # of own segments in one array: merging takes four times an array's memory

log = logging.getLogger(__name__)


def request_context(sampling: Sampling, engine_digest: str) -> str:
    """Return what the keys of a step's requests share: sampling (schema included) and the engine."""
    return digest_of(asdict(sampling), engine_digest)


def request_key(prompt: str, seed: int | None, context: str) -> bytes:
    """Return the 16 bytes under which the answer to a request is kept."""
    return xxhash.xxh3_128_digest(f"{context}\n{seed}\n{prompt}".encode("utf-8", "surrogatepass"))


class ResponseCache:
    """A cache that all threads of a process read and append to; `open_cache` opens it."""

    def __init__(self, directory: str):
        self.directory = directory
        self._indexes = cache_index.open_indexes(directory)
        self._own_segments: list[str] = []
        self._levels: list[np.ndarray] = []  # index arrays [3, K] of own segments, merged up to MERGED_KEYS
        self._unwritten: dict[bytes, Completion] = {}
        self._failure: str | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._write_lock = threading.Lock()
        self._decode_lock = threading.Lock()
        self._decoded: OrderedDict[tuple[str, int], list[Completion]] = OrderedDict()
        self._flusher = threading.Thread(target=self._flush_often, name="response-cache", daemon=True)
        self._flusher.start()

    def lookup(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """Return the completions kept under these keys; None where there is none."""
        if not keys:
            return []
        written: list[Completion | None] = [None] * len(keys)
        with self._changed:
            unwritten = [self._unwritten.get(key) for key in keys]
            indexes = [*self._indexes, *(Index(self._own_segments, array) for array in self._levels)]
        moved = [self._fill(written, keys, index) for index in indexes]
        if any(moved):
            # Another task has merged these segments since this cache was opened: see what is there now.
            self._indexes = cache_index.open_indexes(self.directory)
            for index in self._indexes:
                self._fill(written, keys, index)
        return [kept or waiting for kept, waiting in zip(written, unwritten, strict=True)]

    def put(self, key: bytes, completion: Completion) -> None:
        """Keep a completion; wait while FLUSH_ROWS are unwritten.

        Raises StageError once the directory cannot be written; what was written before is kept.
        """
        if completion.error is not None:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._closed or len(self._unwritten) < FLUSH_ROWS)
            if self._failure:
                raise StageError(self._failure)
            self._unwritten.setdefault(key, completion)
            # Half of what may be lost: the other half fills while this one is written.
            if len(self._unwritten) * 2 >= FLUSH_ROWS:
                self._changed.notify_all()
        if self._closed:  # an answer to a pipeline that has ended
            self.flush()

    def flush(self) -> None:
        """Write down all completions that were put.

        Raises StageError where that fails.
        """
        with self._write_lock:
            with self._changed:
                rows = dict(self._unwritten)
            if not rows:
                return
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.arrow"
            try:
                cache_index.write_segment(storage.join(self.directory, name), [_to_batch(rows)])
            except Exception as error:  # stores have errors of their own, and an unseen one would hang who waits
                with self._changed:
                    self._failure = (
                        f"{error} (response cache: {len(rows)} completions are unwritten, all before them are kept)"
                    )
                    self._changed.notify_all()
                raise StageError(self._failure) from error
            with self._changed:
                self._add_segment(name, list(rows))
                for key in rows:
                    del self._unwritten[key]
                self._changed.notify_all()

    def close(self) -> None:
        """Flush and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._flusher.join()
        self.flush()

    def _flush_often(self) -> None:
        def due() -> bool:
            return self._closed or len(self._unwritten) * 2 >= FLUSH_ROWS

        while not self._closed and not self._failure:
            with self._changed:
                self._changed.wait_for(due, FLUSH_SECONDS)
            try:
                self.flush()
            except StageError as error:
                log.error("%s", error)

    def _add_segment(self, name: str, keys: list[bytes]) -> None:
        self._own_segments.append(name)
        keys_K2 = np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)
        addresses = cache_index.addresses_of(len(self._own_segments) - 1, 0, len(keys))
        index_3K = cache_index.sorted_array(keys_K2, addresses)
        # Levels of 900 and 200 keys, 150 new ones → 200 <= 2 * 150: levels of 900 and 350, as 900 > 2 * 350.
        while self._levels and self._levels[-1].shape[1] <= min(2 * index_3K.shape[1], MERGED_KEYS - index_3K.shape[1]):
            both_3K = np.concatenate([self._levels.pop(), index_3K], axis=1)
            index_3K = cache_index.sorted_array(both_3K[:2].T, both_3K[2])
        self._levels.append(index_3K)

    def _fill(self, completions: list[Completion | None], keys: Sequence[bytes], index: Index) -> bool:
        """Fill in the completions of an index; return whether one of its segments is gone."""
        moved = False
        matches = cache_index.match_keys(index.array, np.frombuffer(b"".join(keys), np.uint64))
        for key, address in zip(*matches, strict=True):
            if completions[key] is not None:
                continue
            number, batch, row = cache_index.parts_of(address)
            segment = index.segments[number]
            try:
                completions[key] = self._decode(segment, batch)[row]
            except FileNotFoundError:
                moved = True
            except (*BROKEN, IndexError) as error:
                log.warning("%s: broken cache segment, passed over (%s)", storage.join(self.directory, segment), error)
        return moved

    def _decode(self, segment: str, batch: int) -> list[Completion]:
        with self._decode_lock:
            completions = self._decoded.get((segment, batch))
            if completions is None:
                with cache_index.open_segment(self.directory, segment) as reader:
                    decoded = reader.get_batch(batch)
                decoded.validate(full=True)
                rows = decoded.drop_columns(["key"]).to_pylist()
                completions = self._decoded[segment, batch] = [Completion(**row) for row in rows]
                if len(self._decoded) > DECODED_BATCHES:
                    self._decoded.popitem(last=False)
            self._decoded.move_to_end((segment, batch))
            return completions


_open_caches: dict[str, ResponseCache] = {}
_open_lock = threading.Lock()


def open_cache(directory: str) -> ResponseCache:
    """Return a directory's cache, one per process, which is flushed as the process ends."""
    with _open_lock:
        if directory not in _open_caches:
            _open_caches[directory] = ResponseCache(directory)
        return _open_caches[directory]


@atexit.register
def close_caches() -> None:
    with _open_lock:
        while _open_caches:
            _open_caches.popitem()[1].close()


def compact_and_index(directory: str) -> int:
    """Merge small segments, index all of them and return the number of keys.

    The driver calls it as a stage starts. A segment that cannot be read is left out with a warning that names it.
    """
    with _open_lock:
        if directory in _open_caches:
            _open_caches[directory].close()
            del _open_caches[directory]
    names = cache_index.segment_names(directory)
    index = cache_index.load_index(directory)
    if index.segments != names:
        with contextlib.suppress(FileNotFoundError):  # another task merges them at this moment
            cache_index.merge_small(directory, names)
        index = cache_index.update_index(directory, index, cache_index.segment_names(directory))
        cache_index.save_index(directory, index)
    return index.array.shape[1]


def _to_batch(rows: dict[bytes, Completion]) -> pa.RecordBatch:
    columns = [list(rows)]
    columns += [[getattr(completion, name) for completion in rows.values()] for name in SEGMENT_SCHEMA.names[1:]]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SEGMENT_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SEGMENT_SCHEMA)
