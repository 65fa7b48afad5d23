"""Ask a model about every row of a table: it is kept busy across batches, and every answer is kept.

Requests of later chunks are sent while earlier ones are still being answered; chunks leave in the order they came.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.windowed_value import WindowedValue

from transforms.engines.engine import Completion, Engine, EngineConfig, Request, Sampling
from transforms.engines.identity import engine_digest
from transforms.engines.running import open_engine
from transforms.generation.response_cache import (
    ResponseCache,
    compact_and_index,
    open_cache,
    request_context,
    request_key,
)
from transforms.tables import progress
from transforms.tables.chunks import Asked, Chunk
from transforms.tables.columns import with_columns
from transforms.tables.identity import sampling_seed
from transforms.tables.marks import kept

WINDOW_ROWS = 4096  # at least, from the oldest unanswered row to the newest one sent
WINDOW_REQUESTS = 16  # times as many as the engine works on at once: it must not wait for one long answer
WINDOW_BYTES = 128 << 20  # of batches that have come in and not left
BLOCK_ROWS = 64  # looked up and sent together

# Column and type of what a completion adds to a row, with the name it has in Completion.
COMPLETION_FIELDS = (
    (pa.field("completion", pa.string()), "text"),
    (pa.field("reasoning", pa.string()), "reasoning"),
    (pa.field("finish_reason", pa.string()), "finish_reason"),
    (pa.field("prompt_tokens", pa.int32()), "prompt_tokens"),
    (pa.field("completion_tokens", pa.int32()), "completion_tokens"),
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """Who is asked, and how: an engine, one of its adapters or none, and how completions are drawn."""

    engine: EngineConfig
    sampling: Sampling
    adapter: str = ""


def requests(batch: pa.RecordBatch, model: Model, step: str, seed: int, member: str = "") -> dict[int, Request]:
    """Return the requests of a batch by row number, for rows with a `prompt` and without a mark.

    With `member`, only of the rows whose column `member` says so. A row's `max_tokens`, where the column is there and
    says more than the sampling, is its limit. A row's seed comes from its id, the step, its `draw` (0 without such a
    column) and the recipe's seed, so it does not depend on where the row lies. At temperature 0 there is no seed, and
    equal prompts are equal requests.
    """
    is_asked = pc.and_(kept(batch), pc.is_valid(batch.column("prompt")))
    if member:
        is_asked = pc.and_(is_asked, pc.fill_null(pc.equal(batch.column("member"), member), False))
    rows = np.flatnonzero(is_asked)

    def values(column: str, default: int) -> list[Any]:
        has_column = column in batch.schema.names
        return batch.column(column).take(rows).to_pylist() if has_column else [default] * len(rows)

    least = model.sampling.max_tokens
    limits = [max(least, limit or 0) for limit in values("max_tokens", least)]
    samplings = {limit: replace(model.sampling, max_tokens=limit) for limit in set(limits)}
    seeds: list[int | None] = [None] * len(rows)
    if model.sampling.temperature > 0:
        draws = zip(values("id", 0), values("draw", 0), strict=True)
        seeds = [sampling_seed(row_id, step, draw, seed) for row_id, draw in draws]
    asked = zip(rows.tolist(), values("prompt", 0), limits, seeds, strict=True)
    return {row: Request(prompt, samplings[limit], drawn, model.adapter) for row, prompt, limit, drawn in asked}


def with_completions(batch: pa.RecordBatch, completions: list[Completion | None]) -> pa.RecordBatch:
    """Return the batch with the columns of COMPLETION_FIELDS and `error`, null where no model was asked."""
    for column, attribute in COMPLETION_FIELDS:
        values = pa.array([done and getattr(done, attribute) for done in completions], column.type)
        batch = with_columns(batch, **{column.name: values})
    errors = pa.array([done and done.error for done in completions], pa.string())
    if "error" in batch.schema.names:
        errors = pc.coalesce(batch.column("error"), errors)
    return with_columns(batch, error=errors)


def asked_for(completions: list[Completion | None]) -> Asked:
    """Return what was asked for completions, None where no model was."""
    answers = [completion for completion in completions if completion]
    return Asked(
        len(answers),
        sum(answer.prompt_tokens for answer in answers),
        sum(answer.completion_tokens for answer in answers),
    )


def contexts_of(model: Model) -> Callable[[Sampling], str]:
    """Return a request_context that remembers: a model's samplings differ in `max_tokens` alone."""
    digest, by_limit = engine_digest(model.engine, model.adapter), dict[int, str]()

    def context(sampling: Sampling) -> str:
        if sampling.max_tokens not in by_limit:
            by_limit[sampling.max_tokens] = request_context(sampling, digest)
        return by_limit[sampling.max_tokens]

    return context


_in_flight: dict[bytes, Future[Completion]] = {}
_in_flight_lock = threading.Lock()


def send(
    block: list[Request],
    engine: Engine,
    cache: ResponseCache | None,
    context: Callable[[Sampling], str],
    step: str,
) -> list[Future[Completion]]:
    """Return the completions' futures: cached, in flight for an equal request, or newly asked.

    context: returns a sampling's transforms.generation.response_cache.request_context, a part of the cache's keys.
    Never waits for an answer. A request is claimed before the cache is read and let go after its answer is in the
    cache, so no two threads can ask the same.
    """
    claimed: dict[bytes, tuple[Request, Future[Completion]]] = {}
    futures = []
    with _in_flight_lock:
        for request in block:
            key = request_key(request.prompt, request.seed, context(request.sampling))
            future = _in_flight.get(key)
            if future is None:
                future = _in_flight[key] = Future()
                claimed[key] = (request, future)
            else:
                future.add_done_callback(lambda _: progress.add(step, done=1))
            futures.append(future)
    try:
        cached = cache.lookup(list(claimed)) if cache else [None] * len(claimed)
    except BaseException as error:
        for key, (_, future) in claimed.items():
            _let_go(key, future, error)
        raise
    for (key, (request, future)), completion in zip(claimed.items(), cached, strict=True):
        if completion is not None:
            progress.add(step, done=1, cached=1)
            _let_go(key, future, completion)
            continue
        try:
            answer = engine.submit(request)
        except Exception as error:
            _let_go(key, future, error)
        else:
            answer.add_done_callback(partial(_keep, key, future, cache, step))
    return futures


def _keep(
    key: bytes, future: Future[Completion], cache: ResponseCache | None, step: str, answer: Future[Completion]
) -> None:
    try:
        completion = answer.result()
        if cache:
            cache.put(key, completion)
    except BaseException as error:
        _let_go(key, future, error)
        return
    progress.add(step, done=1, generated_tokens=completion.completion_tokens)
    _let_go(key, future, completion)


def _let_go(key: bytes, future: Future[Completion], outcome: Completion | BaseException) -> None:
    with _in_flight_lock:
        _in_flight.pop(key, None)
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


@dataclass(slots=True)
class _Pending:
    """A chunk whose rows have been sent; `last` numbers its last request, counted from the bundle's start."""

    chunk: Chunk
    futures: list[Future[Completion] | None]
    last: int
    timestamp: beam.utils.timestamp.Timestamp
    window: beam.transforms.window.BoundedWindow


class _GenerateFn(beam.DoFn):
    def __init__(
        self,
        models: Mapping[str, Model],
        step: str,
        seed: int,
        cache: str | None,
        window_rows: int | None,
        window_bytes: int,
    ):
        self.models = models
        self.step = step
        self.seed = seed
        self.cache_directory = cache
        self.window_rows = window_rows
        self.window_bytes = window_bytes

    def setup(self) -> None:
        self.engines = {name: open_engine(model.engine) for name, model in self.models.items()}
        self.cache = open_cache(self.cache_directory) if self.cache_directory else None
        self.contexts = {name: contexts_of(model) for name, model in self.models.items()}
        concurrency = sum({id(engine): engine.concurrency for engine in self.engines.values()}.values())
        self.rows_ahead = self.window_rows or max(WINDOW_ROWS, WINDOW_REQUESTS * concurrency)

    def start_bundle(self) -> None:
        progress.add(self.step)
        self.pending: deque[_Pending] = deque()
        self.unanswered: deque[Future[Completion]] = deque()
        self.answered = 0
        self.bytes = 0

    def process(
        self,
        chunk: Chunk,
        timestamp: beam.utils.timestamp.Timestamp = beam.DoFn.TimestampParam,
        window: beam.transforms.window.BoundedWindow = beam.DoFn.WindowParam,
    ) -> Iterator[WindowedValue]:
        size = chunk.batch.nbytes
        while self.pending and self.bytes + size > self.window_bytes:
            yield self._next_chunk()
        futures = self._send(chunk)
        last = self.answered + len(self.unanswered)
        self.pending.append(_Pending(chunk, futures, last, timestamp, window))
        self.bytes += size
        while self.unanswered and self.unanswered[0].done():
            self._wait_for(self.answered + 1)
        while self.pending and self.pending[0].last <= self.answered:
            yield self._next_chunk()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self.pending:
            yield self._next_chunk()
        if self.cache:
            self.cache.flush()  # a cluster may end this process as soon as its last bundle is done

    def teardown(self) -> None:
        if self.cache:
            self.cache.flush()

    def _send(self, chunk: Chunk) -> list[Future[Completion] | None]:
        futures: list[Future[Completion] | None] = [None] * chunk.batch.num_rows
        for name, model in self.models.items():
            step = f"{self.step} {name}" if name else self.step
            asked = list(requests(chunk.batch, model, step, self.seed, name).items())
            for start in range(0, len(asked), BLOCK_ROWS):
                block = asked[start : start + BLOCK_ROWS]
                self._wait_for(self.answered + len(self.unanswered) + len(block) - self.rows_ahead)
                prompts = [request for _, request in block]
                sent = send(prompts, self.engines[name], self.cache, self.contexts[name], self.step)
                for (row, _), future in zip(block, sent, strict=True):
                    futures[row] = future
                self.unanswered.extend(sent)
        progress.add(self.step, done=futures.count(None))
        return futures

    def _wait_for(self, number: int) -> None:
        """Wait until this bundle's first `number` requests are answered; raise what the engine raised."""
        while self.answered < number and self.unanswered:
            self.unanswered.popleft().result()
            self.answered += 1

    def _next_chunk(self) -> WindowedValue:
        pending = self.pending.popleft()
        self._wait_for(pending.last)
        self.bytes -= pending.chunk.batch.nbytes
        completions = [future.result() if future else None for future in pending.futures]
        batch = with_completions(pending.chunk.batch, completions)
        asked = asked_for(completions)
        return WindowedValue(pending.chunk.with_batch(batch, asked), pending.timestamp, (pending.window,))


@dataclass
class Generate(beam.PTransform):
    """Answer the `prompt` of every row: add the columns of COMPLETION_FIELDS and `error`.

    A row whose prompt is null, or that is marked by `drop_reason` or `error`, is passed on as it is; a row that fails
    gets finish_reason 'error' and a named `error`, and costs no other. Batch pipelines only: answers leave with their
    bundle, so a runner that closes bundles after a few elements leaves the engine idle.

    model: who is asked; with several by name, each row asks the one that its column `member` names.
    step: names the step in seeds (with the member's name) and in transforms.tables.progress.
    seed: the recipe's integer seed.
    cache: directory of the response cache (any store), or None to keep nothing.
    window_rows, window_bytes: how far ahead of the oldest unanswered row requests are sent; by default as far as the
        engine needs to stay busy.
    """

    model: Model | Mapping[str, Model]
    step: str
    seed: int
    cache: str | None
    window_rows: int | None = None
    window_bytes: int = WINDOW_BYTES

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        if self.cache:
            compact_and_index(self.cache)
        models = {"": self.model} if isinstance(self.model, Model) else self.model
        ask = _GenerateFn(models, self.step, self.seed, self.cache, self.window_rows, self.window_bytes)
        return chunks | "Ask" >> beam.ParDo(ask).with_output_types(Chunk)
