"""What a settings file may say: plain data, and nothing by which code is run, files are read or keys are sent.

A recipe or a squad file is often somebody else's. What its user types, a flag or `--set`, is the user's own, so these
rules are for files alone. Two hold for everybody: scripted models need ALIGNBEAM_SCRIPTED=1, and no setting names a
key.

Settings are walked by name at every depth, because an engine's `args` may stand in a recipe's models, in a squad's
members or in what `compare` and `stages_of` change. A name that is not listed here is refused, so that an argument
which a later vLLM brings is refused until somebody has looked at it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from schemas.errors import UsageError

SCRIPTED = "scripted"
SCRIPTED_VARIABLE = "ALIGNBEAM_SCRIPTED"
MAX_DEPTH = 20  # YAML's anchors can make a mapping that holds itself
SCRIPTED_REFUSAL = (
    f"a scripted model calls a Python function, and is for tests: only where the environment says {SCRIPTED_VARIABLE}=1"
)
KEY_REFUSAL = (
    "is no setting any more, because a file could send any variable anywhere; remove it, and bind the key to its "
    "server in the environment: ALIGNBEAM_KEYS='HOST:PORT=VARIABLE' (docs/security.md)"
)

Path = tuple[str, ...]
Allowed = Callable[[Any], bool] | Mapping[str, Any]  # whether a value is allowed, or the same of what is nested


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def is_word(value: Any) -> bool:
    """Return whether a value is a short name, as no path and no dotted module can be."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", value) is not None


def is_revision(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value) is not None


def is_string(value: Any) -> bool:
    return isinstance(value, str)


def is_data(value: Any) -> bool:
    return True


def one_of(*names: str) -> Allowed:
    return lambda value: value in names


def each(allowed: Callable[[Any], bool]) -> Allowed:
    return lambda value: isinstance(value, list) and all(map(allowed, value))


def by_token(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(is_number, value.values()))


def switches(value: Any) -> bool:
    """Return whether a value holds what a chat template is switched by: yes or no, numbers, short names."""
    return isinstance(value, Mapping) and all(is_number(item) or is_word(item) for item in value.values())


# Engine arguments of vLLM 0.32 that only say how much, how many, which of vLLM's own ways, or whether.
# Not here, among others: chat_template (vLLM first opens the text as a file, and a link may bear any name),
# hf_overrides, tokenizer, hf_config_path, download_dir, worker_cls, scheduler_cls, logits_processors, plugins.
ENGINE_ARGS: Mapping[str, Allowed] = {
    **dict.fromkeys(
        (
            *("block_size", "cpu_offload_gb", "data_parallel_size", "gpu_memory_utilization", "kv_cache_memory_bytes"),
            *("kv_offloading_size", "long_prefill_token_threshold", "max_cpu_loras", "max_cudagraph_capture_size"),
            *("max_logprobs", "max_lora_rank", "max_loras", "max_model_len", "max_num_batched_tokens", "max_num_seqs"),
            *("max_parallel_loading_workers", "num_gpu_blocks_override", "optimization_level"),
            *("pipeline_parallel_size", "prefill_context_parallel_size", "decode_context_parallel_size", "seed"),
            *("stream_interval", "tensor_parallel_size"),
        ),
        is_number,
    ),
    **dict.fromkeys(
        (
            *("async_scheduling", "disable_cascade_attn", "disable_custom_all_reduce", "disable_log_stats"),
            *("disable_sliding_window", "enable_chunked_prefill", "enable_expert_parallel", "enable_lora"),
            *("enable_prefix_caching", "enforce_eager", "fully_sharded_loras", "language_model_only"),
            *("skip_mm_profiling", "use_tqdm_on_load"),
        ),
        is_switch,
    ),
    **dict.fromkeys(
        (
            *("attention_backend", "dtype", "kv_cache_dtype", "linear_backend", "lora_dtype", "mamba_cache_dtype"),
            *("mamba_ssm_cache_dtype", "moe_backend", "performance_mode", "quantization", "reasoning_parser"),
            *("scheduling_policy",),
        ),
        is_word,
    ),
    **dict.fromkeys(("revision", "tokenizer_revision"), is_revision),
    "attention_config": {"backend": is_word, "flash_attn_version": is_number},
    "compilation_config": {
        "mode": is_number,
        "cudagraph_mode": is_word,
        "cudagraph_capture_sizes": each(is_number),
        "max_cudagraph_capture_size": is_number,
    },
    "config_format": one_of("auto", "hf", "mistral"),
    "cudagraph_capture_sizes": each(is_number),
    "distributed_executor_backend": one_of("mp", "uni"),
    "generation_config": one_of("auto", "vllm"),
    "limit_mm_per_prompt": dict.fromkeys(("image", "video", "audio"), is_number),
    "load_format": one_of("safetensors", "mistral", "bitsandbytes", "dummy"),
    "speculative_config": {
        "method": one_of("ngram", "ngram_gpu"),
        **dict.fromkeys(("num_speculative_tokens", "prompt_lookup_max", "prompt_lookup_min"), is_number),
    },
    "structured_outputs_config": {
        "backend": one_of("auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"),
        **dict.fromkeys(("disable_any_whitespace", "disable_additional_properties", "enable_in_reasoning"), is_switch),
    },
    "tokenizer_mode": one_of("auto", "hf", "slow", "mistral"),
}
SCRIPTED_ARGS: Mapping[str, Allowed] = {"function": is_string, "delay_seconds": is_number, "threads": is_number}

# Of vLLM's SamplingParams, and at last what servers know beside them. Not here: logits_processors, extra_args.
SAMPLING_EXTRA: Mapping[str, Allowed] = {
    **dict.fromkeys(
        (
            *("frequency_penalty", "logprobs", "min_p", "min_tokens", "presence_penalty", "prompt_logprobs"),
            *("thinking_token_budget", "top_k"),
        ),
        is_number,
    ),
    **dict.fromkeys(
        (
            *("detokenize", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens"),
            *("spaces_between_special_tokens",),
        ),
        is_switch,
    ),
    "allowed_token_ids": each(is_number),
    "bad_words": each(is_string),
    "logit_bias": by_token,
    "stop_token_ids": each(is_number),
    "structured_outputs": {
        "json": is_data,
        "choice": each(is_string),
        **dict.fromkeys(("regex", "grammar", "structural_tag", "whitespace_pattern"), is_string),
        **dict.fromkeys(("json_object", "disable_any_whitespace", "disable_additional_properties"), is_switch),
    },
    **dict.fromkeys(("reasoning_effort", "verbosity", "service_tier"), is_word),
    "response_format": is_data,
}


def scripted_allowed() -> bool:
    """Return whether this process opted in to models that are Python functions."""
    return os.environ.get(SCRIPTED_VARIABLE) == "1"


def require_scripted(name: str) -> None:
    """Raise UsageError unless this process opted in to scripted models; `name` asks for one."""
    if not scripted_allowed():
        raise UsageError(f"{name}: {SCRIPTED_REFUSAL}")


def check_settings(source: str, values: Mapping[str, Any], *, typed: bool) -> None:
    """Raise UsageError, naming source and key, for all that these settings may not say.

    typed: whether the user typed them (--set, a flag), and so may say what a file may not.
    """
    if problems := list(settings_problems(values, typed=typed)):
        raise UsageError("\n".join(f"{source}: {'.'.join(path)}: {message}" for path, message in problems))


def settings_problems(value: Any, path: Path = (), *, typed: bool) -> Iterator[tuple[Path, str]]:
    """Yield what settings at a path may not say, each with its own path."""
    if len(path) > MAX_DEPTH + 1:
        yield path, f"nested more than {MAX_DEPTH} levels deep"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _of_key(key, item, (*path, str(key)), typed)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from settings_problems(item, (*path, str(number)), typed=typed)
    elif isinstance(value, str):
        if value.rpartition("=")[2].startswith(f"{SCRIPTED}:") and not scripted_allowed():
            yield path, f"{value!r}: {SCRIPTED_REFUSAL}"
    elif not (typed or value is None or is_number(value)):
        # A set or bytes would be turned into what they look like after they were looked at here.
        yield path, f"{type(value).__name__} is no plain value; write a text, a number, a list or names"


def _of_key(key: Any, value: Any, path: Path, typed: bool) -> Iterator[tuple[Path, str]]:
    if not (typed or isinstance(key, str | int)):
        yield path, f"{type(key).__name__} is no name; write it as a text"
        return
    if key == "api_key_env":
        yield path, KEY_REFUSAL
    if key == "engine" and value == SCRIPTED and not scripted_allowed():
        yield path, f"{SCRIPTED!r}: {SCRIPTED_REFUSAL}"
    if not typed and key in ("args", "extra", "chat_template_kwargs"):
        for refused in _refused(_allowed(key), value, path):
            # align has --set for all members of a squad file
            hint = ".".join(refused[2:] if refused[0] == "members" else refused)
            yield (
                refused,
                "no file may set it so, because vLLM can load code or read files by such arguments; "
                f"if you trust it, type it: --set {hint}=…",
            )
    yield from settings_problems(value, path, typed=typed)


def _allowed(key: str) -> Allowed:
    if key == "args":
        return {**ENGINE_ARGS, **(SCRIPTED_ARGS if scripted_allowed() else {})}
    return SAMPLING_EXTRA if key == "extra" else switches


def _refused(allowed: Allowed, value: Any, path: Path) -> Iterator[Path]:
    """Yield the paths of what is not allowed, at any depth; null stands for the default."""
    if value is None:
        return
    if not isinstance(allowed, Mapping):
        if not allowed(value):
            yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _refused(allowed.get(key, _never), item, (*path, str(key)))
    else:
        yield path


def _never(value: Any) -> bool:
    return False
