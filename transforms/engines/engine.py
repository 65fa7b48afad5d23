"""Engines: a text goes in, a future of a completion comes out. Nothing here knows of Beam or of tables.

Three kinds: `vllm` (vLLM in a process of our own, on this machine), `server` (any OpenAI-compatible server) and
`scripted` (a Python function, for tests). `transforms.engines.running` starts them.
"""

import json
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import xxhash

from schemas.errors import UsageError
from schemas.file_settings import SCRIPTED, require_scripted
from schemas.urls import redact_urls
from transforms.engines.keys import BINDING_HINT, is_plain_url

EngineKind = Literal["vllm", "server", "scripted"]
PromptStyle = Literal["completion", "chat"]
FinishReason = Literal["stop", "length", "error"]
RESERVED_SAMPLING = frozenset({"max_tokens", "temperature", "top_p", "repetition_penalty", "stop", "seed", "n"})


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a completion is drawn; `extra` holds any other argument of vLLM's SamplingParams, by its name there."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        _require(self.max_tokens >= 1, "sampling.max_tokens", self.max_tokens, "must be at least 1")
        _require(self.temperature >= 0, "sampling.temperature", self.temperature, "must not be negative")
        _require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "must be in (0, 1]")
        _require(self.repetition_penalty > 0, "sampling.repetition_penalty", self.repetition_penalty, "must be above 0")
        _require(all(self.stop), "sampling.stop", self.stop, "must not hold an empty string")
        taken = sorted(RESERVED_SAMPLING & self.extra.keys())
        _require(not taken, "sampling.extra", taken, "has its own field, or (seed, n) is set by alignbeam")


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, rendered, with the seed of its draw (None where nothing is drawn).

    adapter: one of the engine's adapters, or empty for the model as it is.
    """

    prompt: str
    sampling: Sampling
    seed: int | None = None
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model made of a prompt. `text` never holds reasoning; where `finish_reason` is 'error' it is None."""

    text: str | None
    reasoning: str | None = None
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None

    @classmethod
    def failed(cls, error: str, prompt_tokens: int = 0) -> "Completion":
        """Return a completion that failed; `error` begins with a short name, such as `prompt_too_long`."""
        return cls(None, finish_reason="error", prompt_tokens=prompt_tokens, error=error)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Which model answers, and how it is run.

    engine: `vllm` loads `model` (a folder or a hub id) here; `server` asks `base_url` for it; `scripted` calls
        `args["function"]`.
    adapters: folders of LoRA adapters on top of `model`, which requests may name.
    args: any engine argument of vLLM, by its name there (`tensor_parallel_size`, `dtype`, `reasoning_parser`, ...).
    base_url: a server's address; which key it is sent is said by the environment alone (transforms.engines.keys).
    concurrency: requests that a server is sent at once.
    timeout_seconds: longest wait for one answer of a server.
    stall_seconds: a vLLM that works and gives no token for so long is started anew.
    """

    engine: EngineKind = "vllm"
    model: str = ""
    adapters: tuple[str, ...] = ()
    style: PromptStyle = "completion"
    args: dict[str, Any] = field(default_factory=dict)
    base_url: str | None = None
    concurrency: int = 64
    timeout_seconds: float = 600.0
    stall_seconds: float = 180.0
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds, styles = get_args(EngineKind), get_args(PromptStyle)
        _require(self.engine in kinds, "engine.engine", self.engine, f"must be one of {', '.join(kinds)}")
        _require(self.style in styles, "engine.style", self.style, f"must be one of {', '.join(styles)}")
        _require(self.concurrency >= 1, "engine.concurrency", self.concurrency, "must be at least 1")
        _require(self.timeout_seconds > 0, "engine.timeout_seconds", self.timeout_seconds, "must be above 0")
        _require(self.stall_seconds > 0, "engine.stall_seconds", self.stall_seconds, "must be above 0")
        if self.engine == SCRIPTED:
            require_scripted("engine.engine")
            function = self.args.get("function")
            _require(":" in str(function), "engine.args.function", function, "must be 'module:function'")
            return
        _require(bool(self.model), "engine.model", self.model, "must name a model")
        if self.engine == "server":
            url = str(self.base_url)
            shown = None if self.base_url is None else redact_urls(url)
            is_url = url.startswith(("http://", "https://"))
            _require(is_url, "engine.base_url", shown, "must be an http(s) URL")
            bare = not any(mark in url for mark in "@?#")
            _require(bare, "engine.base_url", shown, f"may hold no password, query or fragment; {BINDING_HINT}")
            _require(is_plain_url(url), "engine.base_url", shown, "must be plain, such as https://host:8000/v1")
            _require(not self.args, "engine.args", self.args, "are a local vLLM's; start the server with them instead")
            _require(
                not self.adapters, "engine.adapters", self.adapters, "are a local vLLM's; name a served one as model"
            )
        else:
            for name, value in _flat(self.args, "engine.args"):
                trusts = name.endswith(".trust_remote_code") and value
                _require(not trusts, name, value, "is refused: it runs code from a model")
                _require(not name.endswith(".hf_token"), name, "…", "is a secret; set HF_TOKEN instead")
            _require("model" not in self.args, "engine.args.model", self.args.get("model"), "belongs in engine.model")


class Engine(Protocol):
    """A model that answers. Every future ends: with a completion, failed ones included, or with StageError."""

    @property
    def concurrency(self) -> int:
        """Return how many requests it works on at once."""

    def submit(self, request: Request) -> Future[Completion]: ...

    def close(self) -> None: ...


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(*parts: object) -> str:
    """Return 32 hexadecimal digits (xxh3-128) of JSON values."""
    return xxhash.xxh3_128_hexdigest(canonical_json(parts).encode("utf-8", "surrogatepass"))


def _flat(args: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Yield every argument with its dotted name, at every depth."""
    for key, value in args.items():
        yield f"{name}.{key}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.{key}")


def _require(condition: bool, name: str, value: object, demand: str) -> None:
    if not condition:
        raise UsageError(f"{name} = {value!r}: {demand}")
