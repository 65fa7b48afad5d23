"""What decides an engine's answers besides the request, told without starting it."""

from transforms.engines.engine import EngineConfig, digest_of
from transforms.engines.weights import find_weights

# vLLM's arguments that change what a model says; the others change how fast it says it.
DECISIVE_ARGS = (
    "chat_template",
    "dtype",
    "generation_config",
    "hf_overrides",
    "kv_cache_dtype",
    "logits_processors",
    "max_model_len",  # where a completion is cut
    "override_generation_config",
    "quantization",
    "reasoning_parser",
    "tokenizer",
    "tokenizer_mode",
)


def engine_digest(config: EngineConfig, adapter: str = "") -> str:
    """Return 32 hexadecimal digits of weights, adapter and chat style.

    Of a server they are of its address and the model's name. The same whether the adapter is one of several on an
    engine, or the engine's model. Raises UsageError where `config.model` cannot be a model of vLLM's.
    """
    model = adapter or config.model
    if config.engine == "vllm":
        model = find_weights(model, config.args.get("revision")).digest
    decisive = {name: value for name, value in config.args.items() if name in (*DECISIVE_ARGS, "function")}
    return digest_of(config.engine, config.base_url, model, decisive, config.style, config.chat_template_kwargs)
