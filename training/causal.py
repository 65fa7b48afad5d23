"""What the trainers of causal language models share: base, encoded completions, LoRA, metrics.

Axes of tensors: V tokens of the vocabulary, D dimensions of an embedding.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import StageError, UsageError
from schemas.fields import setting, uses
from training.fit import TrainerSettings, check_max_tokens, load, tokenized_dataset

IGNORED = -100  # a label that takes no part in the loss
CAUSAL = ("ForCausalLM", "LMHeadModel")  # how transformers names the models that write from left to right


@dataclass(frozen=True, kw_only=True)
class CausalSettings(TrainerSettings):
    """The settings that all trainers of causal models have."""

    base: str = uses("base", "causal model to start from: a folder or a hub id")
    gradient_checkpointing: bool = setting("compute activations twice, for less memory", False)
    lora_rank: int = setting("rank of LoRA adapters on all linear layers; 0 trains all weights", 0)
    lora_alpha: int = setting("scale of the adapters, as a multiple of 1 / rank", 32)
    lora_dropout: float = setting("dropout before the adapters", 0.05)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank = {self.lora_rank}: must not be negative; 0 trains all weights")


def load_causal(settings: CausalSettings) -> tuple[Any, Any]:
    """Load tokenizer and model in float32; raise UsageError where they do not suit the settings."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = load(AutoTokenizer, settings.base)
    model = load(AutoModelForCausalLM, settings.base, dtype=torch.float32)
    kinds = model.config.architectures or []
    if not any(kind.endswith(CAUSAL) for kind in kinds):  # an encoder loads too, but sees the tokens that it predicts
        raise UsageError(f"base = {settings.base!r}: is {', '.join(kinds) or 'unnamed'}, not a causal language model")
    check_max_tokens(settings.max_tokens, getattr(model.config, "max_position_embeddings", settings.max_tokens))
    return tokenizer, model


def end_mark(tokenizer: Any, base: str) -> str:
    """Return the base's end of sequence, and pad with it unless it has a padding token.

    Raises UsageError where the base has none.
    """
    if tokenizer.eos_token is None:
        raise UsageError(f"base = {base!r}: its tokenizer has no end of sequence; choose a base that has one")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer.eos_token


def check_prompt_end(tokenizer: Any, base: str, prompt: str) -> None:
    """Raise UsageError where the tokenizer writes a token after a prompt.

    What follows would not continue the prompt.
    """
    ids, bare = (tokenizer(prompt, add_special_tokens=special)["input_ids"] for special in (True, False))
    if ids[-1] != bare[-1]:
        raise UsageError(
            f"base = {base!r}: its tokenizer ends every text with {tokenizer.convert_ids_to_tokens(ids[-1:])}; "
            "choose another base"
        )


def encode_completions(
    prompts: list[str], completions: list[str], tokenizer: Any, max_tokens: int
) -> dict[str, list[list[int]]]:
    """Return `input_ids` and `labels` of the pairs within `max_tokens`, with the loss on completions only.

    A prompt is tokenized alone, as it will be when it is generated from; the completion is tokenized without the marks
    that a tokenizer puts before a text. Prompt [5, 6] and completion [7] become:

        input_ids [5, 6, 7]
        labels    [-100, -100, 7]
    """
    prompt_ids = tokenizer(prompts)["input_ids"]
    completion_ids = tokenizer(completions, add_special_tokens=False)["input_ids"]
    pairs = [
        (prompt, completion)
        for prompt, completion in zip(prompt_ids, completion_ids, strict=True)
        if len(prompt) + len(completion) <= max_tokens
    ]
    return {
        "input_ids": [prompt + completion for prompt, completion in pairs],
        "labels": [[IGNORED] * len(prompt) + completion for prompt, completion in pairs],
    }


def encode_splits(
    splits: Mapping[str, pa.Table], encode: Callable[[pa.Table], Iterable[dict[str, list]]], settings: CausalSettings
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return each split's dataset, and how many of its rows `encode` left out as too long.

    Raises UsageError where a split keeps no row.
    """
    datasets = {split: tokenized_dataset(encode(table)) for split, table in splits.items()}
    for split, dataset in datasets.items():
        if not len(dataset):
            raise UsageError(
                f"{settings.data}: every pair of {split} has more than max_tokens = {settings.max_tokens} tokens; "
                "raise max_tokens"
            )
    return datasets, {split: table.num_rows - len(datasets[split]) for split, table in splits.items()}


def rows_with_too_long(datasets: Mapping[str, Any], too_long: Mapping[str, int]) -> str:
    """Return the line of rows for `fit`, with those that were left out."""
    return ", ".join(f"{split} {len(dataset):,} ({too_long[split]:,} too long)" for split, dataset in datasets.items())


def lora_config(settings: CausalSettings, model: Any, *, train_embeddings: bool) -> Any:
    """Return PEFT's settings of adapters on all linear layers; None where all weights are trained.

    With `train_embeddings`, input and output embeddings [V, D] are trained in full beside the adapters, and stay tied
    where they are tied.
    """
    from peft import LoraConfig

    if not settings.lora_rank:
        return None
    of_embeddings: dict[str, Any] = {}
    if train_embeddings:
        names = {module: name.rpartition(".")[2] for name, module in model.named_modules()}
        embeddings = {names[model.get_input_embeddings()], names[model.get_output_embeddings()]}
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        of_embeddings = {"modules_to_save": sorted(embeddings), "ensure_weight_tying": tied}
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        **of_embeddings,
    )


def model_to_publish(settings: CausalSettings, model: Any, *, adapter: bool) -> Any:
    """Return the whole model, LoRA merged into it.

    With `adapter` it is the adapter alone, naming where its base lies. Sets among its settings are put in order: PEFT
    would write them in one that changes from process to process, and the adapter's digest would change with it.
    """
    if not settings.lora_rank:
        return model
    if not adapter:
        return model.merge_and_unload()
    base = Path(settings.base)
    for peft_settings in model.peft_config.values():
        peft_settings.base_model_name_or_path = str(base.resolve()) if base.is_dir() else settings.base
        for name, value in vars(peft_settings).items():
            if isinstance(value, set):
                setattr(peft_settings, name, sorted(value))
    return model


def weights_note(settings: CausalSettings, *, adapter: bool) -> str:
    """Return what a model's card says of its weights."""
    if not settings.lora_rank:
        return "All weights were fine-tuned."
    return "A LoRA adapter: load it on its base." if adapter else "LoRA adapters are merged into the weights."


def completion_metrics(trainer: Any, dataset: Any) -> dict:
    """Return loss, perplexity and token accuracy of the kept checkpoint, over the tokens that are learnt."""
    metrics = trainer.evaluate(dataset)
    loss = metrics["eval_loss"]
    if not math.isfinite(loss):
        raise StageError("the validation loss is not finite; lower learning_rate and choose another output")
    return {
        "rows": len(dataset),
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "token_accuracy": metrics["eval_mean_token_accuracy"],
    }
