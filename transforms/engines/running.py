"""The engines that run in this process: one per configuration, shared by all threads."""

import atexit
import dataclasses
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from transforms.engines.engine import Engine, EngineConfig, canonical_json
from transforms.engines.weights import find_weights

_engines: dict[str, tuple[EngineConfig, Engine]] = {}  # by the JSON of the configuration
_lock = threading.Lock()


def open_engine(config: EngineConfig) -> Engine:
    """Return the engine of this configuration.

    The first call in a process starts it, the others share it. Raises UsageError where the model, the server or the
    function cannot be used as it was given, and StageError where the engine was started and did not come up.
    """
    key = canonical_json(dataclasses.asdict(config))
    with _lock:
        if key not in _engines:
            _engines[key] = config, _start(config)
        return _engines[key][1]


@atexit.register
def close_engines(keep: Collection[EngineConfig] = ()) -> None:
    """End the engines of this process but those that models of `keep` run on; `open_engine` starts anew.

    Adapters run on an engine of their base that has them all, and no others.
    """
    with _lock:
        for key in [key for key, (config, _) in _engines.items() if not _is_for(config, keep)]:
            _engines.pop(key)[1].close()


def _is_for(engine: EngineConfig, models: Collection[EngineConfig]) -> bool:
    """Return whether `open_engine` gives this engine to one of the models, or to adapters among them."""
    if engine in models:
        return True
    adapters = {}
    for model in models:
        weights = find_weights(model.model, model.args.get("revision")) if model.engine == "vllm" else None
        if weights and weights.adapter:
            adapters[str(Path(weights.adapter).resolve())] = model
    is_run_alike = all(
        replace(model, model=engine.model, adapters=engine.adapters) == engine for model in adapters.values()
    )
    return bool(adapters) and is_run_alike and set(engine.adapters) == adapters.keys()


def _start(config: EngineConfig) -> Engine:
    if config.engine == "scripted":
        from transforms.engines.scripted import ScriptedEngine

        return ScriptedEngine(config)
    if config.engine == "server":
        from transforms.engines.server import ServerEngine

        return ServerEngine(config)
    from transforms.engines.vllm_engine import VllmEngine

    return VllmEngine(config)
