"""vLLM on this machine: one host process per model replica, and as many replicas as there are GPUs for them.

A host that dies, or that works and gives no token for `stall_seconds`, is killed and started anew, and what it had
not answered is sent again. What was at work in RESENDS such deaths is then sent alone, one after the other: a request
that ends vLLM once more, alone, fails and costs no other. HOPELESS of them in a row, and the engine itself is given up.
"""

import glob
import importlib.util
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from schemas.errors import StageError, UsageError
from transforms.engines.engine import Completion, EngineConfig, Request
from transforms.engines.pretrained import refuse_code
from transforms.engines.vllm_process import HostDied, VllmProcess
from transforms.engines.vllm_shim import is_cpu_build
from transforms.engines.weights import Weights, find_weights, has_chat_template

RESENDS = 3
HOPELESS = 3

log = logging.getLogger(__name__)


class VllmEngine:
    def __init__(self, config: EngineConfig):
        if importlib.util.find_spec("vllm") is None:
            raise UsageError("engine.engine = 'vllm': vLLM is not installed; install alignbeam[vllm] or use a server")
        weights = find_weights(config.model, config.args.get("revision"))
        for folder in _texts(config.args):  # of a tokenizer, a draft model and the like
            refuse_code(folder)
        for adapter in config.adapters:
            if (base := find_weights(adapter, config.args.get("revision"))).model != weights.model or not base.adapter:
                raise UsageError(f"engine.adapters: {adapter} is no LoRA adapter of {weights.model}")
        if config.style == "chat" and not (has_chat_template(weights.model) or "chat_template" in config.args):
            raise UsageError(
                f"engine.style = 'chat': {config.model} has no chat template; use 'completion' or args.chat_template"
            )
        gpus = [] if is_cpu_build() else visible_gpus()
        self._replicas = [_Replica(config, weights, group) for group in replica_gpus(config.args, gpus)]
        try:
            self.concurrency = sum(replica.ready.result() for replica in self._replicas)
        except BaseException:
            self.close()
            raise

    def submit(self, request: Request) -> Future[Completion]:
        return min(self._replicas, key=lambda replica: replica.unanswered_requests).submit(request)

    def close(self) -> None:
        for replica in self._replicas:
            replica.close()


def _texts(value: object) -> Iterator[str]:
    """Yield every text among the values of some arguments, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA would see, by the name it has for them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def replica_gpus(args: dict[str, Any], gpus: list[str]) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of every replica; None leaves it as it is.

    The groups are disjoint, and as large as one model needs.
    """
    size = int(args.get("tensor_parallel_size", 1)) * int(args.get("pipeline_parallel_size", 1))
    groups = len(gpus) // size
    if groups < 2 or "distributed_executor_backend" in args or "data_parallel_size" in args:
        return [None]
    return [",".join(gpus[group * size : (group + 1) * size]) for group in range(groups)]


@dataclass(slots=True)
class _Sent:
    request: Request
    future: Future[Completion]
    deaths: int = 0


class _Replica:
    """A host, the thread that minds it, and the requests that it has not answered yet."""

    def __init__(self, config: EngineConfig, weights: Weights, gpus: str | None):
        self.ready: Future[int] = Future()
        self._config = config
        self._weights = weights
        self._gpus = gpus
        self._numbers = itertools.count()
        self._unanswered: dict[int, _Sent] = {}  # in the order in which they were sent
        self._lock = threading.Lock()
        self._host: VllmProcess | None = None
        self._failure: Exception | None = None
        self._working = False
        self._closed = False
        self._alone: int | None = None  # the request that is at work with no other beside it
        self._lost_in_a_row = 0
        self._minder = threading.Thread(target=self._mind, name="vllm-minder", daemon=True)
        self._minder.start()

    @property
    def unanswered_requests(self) -> int:
        return len(self._unanswered)

    def submit(self, request: Request) -> Future[Completion]:
        future: Future[Completion] = Future()
        with self._lock:
            if self._closed or self._failure:
                future.set_exception(self._failure or StageError("the engine is closed"))
                return future
            number = next(self._numbers)
            self._unanswered[number] = _Sent(request, future)
            if self._host and self._working:
                self._host.send(number, request)
        return future

    def close(self) -> None:
        with self._lock:
            self._closed = True
            host = self._host
        if host:
            host.close()
        self._minder.join()
        self._fail(list(self._unanswered), StageError("the engine was closed before it answered"))

    def _mind(self) -> None:
        failed_loads = 0
        while True:
            host = None
            try:
                with self._lock:
                    if self._closed or self._failure:
                        return
                    host = self._host = VllmProcess(self._config, self._weights, self._gpus)
                concurrency = host.start()
            except Exception as error:
                if host:
                    host.kill()
                failed_loads += 1
                if self.ready.done() and failed_loads <= RESENDS:
                    log.warning("vLLM is started anew: %s", error)
                    continue
                if not self.ready.done():
                    self.ready.set_exception(error)
                self._give_up(error)
                return
            failed_loads = 0
            self._send_unanswered(host)
            if not self.ready.done():
                self.ready.set_result(concurrency)
            try:
                self._receive(host)
            except HostDied as death:
                host.kill()
                if not self._closed:
                    self._take_back(concurrency, death)

    def _receive(self, host: VllmProcess) -> None:
        last_sign, tokens = time.monotonic(), -1
        for message in host.messages():
            if isinstance(message, list):
                last_sign = time.monotonic()
                number, *completion = message
                self._lost_in_a_row = 0
                if sent := self._answered(number):
                    sent.future.set_result(Completion(*completion))
            elif message is None:  # silence
                pass
            elif "refused" in message:
                if sent := self._answered(message["refused"]):
                    sent.future.set_exception(UsageError(message["why"]))
            elif "failed" in message:
                raise HostDied(f"{message['failed']}\n{host.log_tail()}")
            elif message["tokens"] != tokens:
                last_sign, tokens = time.monotonic(), message["tokens"]
            if self._alone is not None and self._alone not in self._unanswered:
                self._send_unanswered(host)
            if not self._unanswered:
                last_sign = time.monotonic()
            elif time.monotonic() - last_sign > self._config.stall_seconds:
                raise HostDied(f"no token for {self._config.stall_seconds:g} seconds\n{host.log_tail()}")

    def _send_unanswered(self, host: VllmProcess) -> None:
        """Send all that waits, unless a request is suspected of ending vLLM.

        As long as there is such a one, it is sent alone.
        """
        with self._lock:
            self._alone = next((n for n, sent in self._unanswered.items() if sent.deaths >= RESENDS), None)
            self._working = self._alone is None
            for number, sent in self._unanswered.items():
                if self._alone in (None, number):
                    host.send(number, sent.request)

    def _take_back(self, concurrency: int, death: HostDied) -> None:
        """Send what is unanswered to the next host, except a request that ended vLLM alone."""
        log.warning("vLLM is started anew: %s", death)
        alone = self._alone
        with self._lock:
            self._working = False
            if alone is None:
                # vLLM works on its oldest requests: only these can have ended it.
                for suspect in itertools.islice(self._unanswered.values(), concurrency):
                    suspect.deaths += 1
        if alone is None:
            return
        self._lost_in_a_row += 1
        if sent := self._answered(alone):
            sent.future.set_result(Completion.failed(f"engine_died: {RESENDS + 1} times at this row's request"))
        if self._lost_in_a_row == HOPELESS:
            self._give_up(StageError(f"vLLM died at {HOPELESS} requests in a row and answered none: {death}"))

    def _answered(self, number: int) -> _Sent | None:
        with self._lock:
            return self._unanswered.pop(number, None)

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            self._failure = error
        self._fail(list(self._unanswered), error)

    def _fail(self, numbers: list[int], error: Exception) -> None:
        for number in numbers:
            if sent := self._answered(number):
                sent.future.set_exception(error)
