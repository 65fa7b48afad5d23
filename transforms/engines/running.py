"""The engines that run in this process: one per configuration, shared by all threads."""

import atexit
import dataclasses
import threading

from transforms.engines.engine import Engine, EngineConfig, canonical_json

_engines: dict[str, Engine] = {}
_lock = threading.Lock()


def open_engine(config: EngineConfig) -> Engine:
    """Return the engine of this configuration.

    The first call in a process starts it, the others share it. Raises UsageError where the model, the server or the
    function cannot be used as it was given, and StageError where the engine was started and did not come up.
    """
    key = canonical_json(dataclasses.asdict(config))
    with _lock:
        if key not in _engines:
            _engines[key] = _start(config)
        return _engines[key]


@atexit.register
def close_engines() -> None:
    """End every engine of this process; the next `open_engine` starts afresh."""
    with _lock:
        while _engines:
            _engines.popitem()[1].close()


def _start(config: EngineConfig) -> Engine:
    if config.engine == "scripted":
        from transforms.engines.scripted import ScriptedEngine

        return ScriptedEngine(config)
    if config.engine == "server":
        from transforms.engines.server import ServerEngine

        return ServerEngine(config)
    from transforms.engines.vllm_engine import VllmEngine

    return VllmEngine(config)
