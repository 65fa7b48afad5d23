"""What every stage that asks a model is told."""

from dataclasses import dataclass, field
from typing import Any

from schemas.command_line import setting
from schemas.settings import validated
from transforms.engines.engine import EngineConfig
from transforms.tables import storage


@dataclass(frozen=True, kw_only=True)
class GenerateFlags:
    output: str = setting("run directory", short="-o")
    model: str = setting("model that answers: a folder or a hub id", "")
    cache: str = setting("directory of the response cache (default: OUTPUT/cache)", "")
    seed: int = setting("integer seed of everything that is sampled", 0)
    engine: dict[str, Any] = field(default_factory=dict)  # settings of transforms.engines.engine.EngineConfig
    retry_failed: bool = setting("ask again for the rows that failed", False)

    @property
    def cache_directory(self) -> str:
        return self.cache or storage.join(self.output, "cache")

    def engine_config(self) -> EngineConfig:
        """Return the engine's settings, checked, with the model in them; UsageError names a wrong one."""
        return validated(EngineConfig, "engine", {"model": self.model, **self.engine})
