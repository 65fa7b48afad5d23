"""Scripted models, in tests: (Request) -> str | Completion answers, (question, answer) -> score inspects.

`args: {function: "module:name", delay_seconds: 0.01, threads: 4}`; without a delay it answers at once.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from schemas.errors import UsageError
from schemas.file_settings import require_scripted
from transforms.engines.engine import Completion, EngineConfig, Request

PREFIX = "scripted:"


class ScriptedEngine:
    def __init__(self, config: EngineConfig):
        self._function = _resolve(config.args["function"])
        self._delay_seconds = float(config.args.get("delay_seconds", 0.0))
        self.concurrency = int(config.args.get("threads", 4))
        self._pool = ThreadPoolExecutor(self.concurrency, "scripted") if self._delay_seconds else None

    def submit(self, request: Request) -> Future[Completion]:
        if self._pool:
            return self._pool.submit(self._answer, request)
        future: Future[Completion] = Future()
        try:
            future.set_result(self._answer(request))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _answer(self, request: Request) -> Completion:
        if self._delay_seconds:
            time.sleep(self._delay_seconds)
        answer = self._function(request)
        if isinstance(answer, Completion):
            return answer
        return Completion(answer, prompt_tokens=len(request.prompt.split()), completion_tokens=len(answer.split()))


def is_scripted(inspector: object) -> bool:
    """Return whether an inspector is a function; UsageError unless this process opted in to such."""
    if scripted := str(inspector).startswith(PREFIX):
        require_scripted(str(inspector))
    return scripted


class ScriptedInspector:
    def __init__(self, name: str):
        self._function = _resolve(name.removeprefix(PREFIX))

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        return np.array([self._function(*pair) for pair in zip(questions, answers, strict=True)], np.float64)


def _resolve(name: str) -> Callable[..., Any]:
    """Import a function.

    Consent is asked for here once more, because a remote worker reads no settings and has its own environment.
    """
    require_scripted(name)
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"engine.args.function = {name!r}: there is no such function ({error})") from error
