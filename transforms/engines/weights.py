"""What decides an engine's answers besides the request, told without starting it."""

from pathlib import Path

from transforms.engines import EngineConfig, digest_of
from transforms.engines.encoder import model_config, model_digest


def engine_digest(config: EngineConfig) -> str:
    """32 hexadecimal digits of weights and chat style; UsageError where a folder is named that holds no model.

    A hub id stands for itself (with its `revision`): its weights are not read before they are needed.
    """
    if config.engine != "vllm":
        return digest_of(config.engine, config.base_url, config.model, config.args, config.style)
    weights = config.model
    if Path(config.model).exists() or config.model.startswith((".", "/", "~")):
        model_config(config.model)
        weights = model_digest(config.model)
    return digest_of(weights, config.args.get("revision"), config.style, config.chat_template_kwargs)
