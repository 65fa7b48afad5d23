"""What decides an engine's answers besides the request, told without starting it."""

from transforms.engines import EngineConfig, digest_of
from transforms.engines.vllm_engine import DECISIVE_ARGS
from transforms.engines.weights import find_weights


def engine_digest(config: EngineConfig) -> str:
    """32 hexadecimal digits of weights, adapter and chat style; UsageError where the model cannot be had."""
    if config.engine != "vllm":
        return digest_of(config.engine, config.base_url, config.model, config.args, config.style)
    weights = find_weights(config.model, config.args.get("revision"))
    decisive = {name: value for name, value in config.args.items() if name in DECISIVE_ARGS}
    return digest_of(weights.digest, decisive, config.style, config.chat_template_kwargs)
