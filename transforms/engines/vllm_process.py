"""One run of transforms.engines.vllm_host, seen from its parent: pipes, log and end."""

import contextlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from schemas.children import child_environment
from schemas.errors import StageError, UsageError
from transforms.engines.engine import EngineConfig, Request, canonical_json
from transforms.engines.vllm_shim import host_environment
from transforms.engines.weights import Weights

LOG_TAIL_LINES = 30
CLOSE_SECONDS = 10.0
POLL_MS = 1000

log = logging.getLogger(__name__)


class HostDied(Exception):
    """The host ended, or says that vLLM did."""


class VllmProcess:
    """One run of transforms.engines.vllm_host, in a process group of its own."""

    def __init__(self, config: EngineConfig, weights: Weights, gpus: str | None):
        self._settings = {
            "model": weights.model,
            "adapter": weights.adapter,
            "adapters": config.adapters,
            "chat": config.style == "chat",
            "args": config.args,
            "chat_template_kwargs": config.chat_template_kwargs,
        }
        self._name = config.model
        lifeline, other_end = os.pipe()
        self._lifeline = os.fdopen(other_end, "wb")
        environment = child_environment() | host_environment()
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpus
        with tempfile.NamedTemporaryFile("ab", prefix="alignbeam-vllm-") as sink:
            self._log = open(sink.name, errors="replace")  # noqa: SIM115  (the name goes, so nothing is left behind)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "transforms.engines.vllm_host", str(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment,
                pass_fds=[lifeline],
                start_new_session=True,
            )
        os.close(lifeline)
        self._outbox: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
        self._lines = self._read_lines()

    def start(self) -> int:
        """Wait until the model is loaded; return the number of requests that it works on at once."""
        self._write(self._settings)
        for message in self._lines:
            if message is None:
                continue
            if "ready" in message:
                threading.Thread(target=self._write_requests, name="vllm-writer", daemon=True).start()
                return message["ready"]["concurrency"]
            kind = UsageError if message["usage"] else StageError
            raise kind(f"{self._name}: vLLM could not load it: {message['failed']}\n{self.log_tail()}")
        raise StageError(f"{self._name}: vLLM ended while it loaded\n{self.log_tail()}")

    def messages(self) -> Iterator[Any]:
        """Yield what the host says; None at least every POLL_MS of silence.

        Raises HostDied at the end.
        """
        yield from self._lines
        self._process.wait()
        raise HostDied(f"the process ended with code {self._process.returncode}\n{self.log_tail()}")

    def send(self, number: int, request: Request) -> None:
        self._outbox.put((number, request))

    def close(self) -> None:
        """Let vLLM end, at most CLOSE_SECONDS; then nothing of it is left."""
        self._outbox.put(None)
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            log.debug("vLLM did not end by itself")
        self.kill()

    def kill(self) -> None:
        self._lifeline.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._outbox.put(None)

    def log_tail(self) -> str:
        self._log.seek(0)
        lines = self._log.read().splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(["the end of vLLM's log:", *(f"  | {line}" for line in lines)])

    def _read_lines(self) -> Iterator[Any]:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLHUP)
        buffer = b""
        while True:
            if not poll.poll(POLL_MS):
                yield None
                continue
            data = os.read(fd, 1 << 20)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def _write_requests(self) -> None:
        """Write requests; a sampling is sent once, then by number.

        It is a thread of its own, because a host that hangs must not stop its minder.
        """
        samplings: dict[str, int] = {}
        try:
            while (item := self._outbox.get()) is not None:
                number, request = item
                key = canonical_json(asdict(request.sampling))
                if key not in samplings:
                    samplings[key] = len(samplings)
                    self._write({"sampling": samplings[key], "value": asdict(request.sampling)})
                message = [number, request.prompt, samplings[key], request.seed, request.adapter]
                self._write(message, flush=self._outbox.empty())
            self._write(None)
        except BrokenPipeError:
            log.debug("the host is gone; what it had not answered is sent to the next one")

    def _write(self, message: object, flush: bool = True) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        if flush:
            self._process.stdin.flush()
