"""Train an aligner: a causal model that rewrites a response to a question (paper 000, section 2 and app. C).

    python -m training.aligner --config training/configs/aligner_gpt2_large.yaml --data curated/aligner --output aligner
    torchrun --nproc-per-node 8 -m training.aligner --data curated/aligner --output aligner --gradient-accumulation 2

The text is that of `transforms.aligner_format`, with the separators as special tokens and the loss on the correction
and its end mark only. Pairs too long for the model are left out and counted: a correction is never cut. Defaults are
the paper's settings for GPT-2 Large. The checkpoint with the least validation loss is kept.

The output is one model folder that vLLM and transformers load as it is and that ends at `[DONE]` by itself. That holds
with LoRA too: the adapter is merged, because the separators' embeddings are trained as well and vLLM loads no adapter
that changes embeddings.

With `adapter` it is kept apart, for squads, whose adapters share one base: the tokenizer is the base's own, the
separators are plain text, the base's end of sequence ends a correction, and nothing but the adapter is trained. The
output is a PEFT folder that names its base.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.command_line import setting
from schemas.config import to_dict
from schemas.errors import StageError, UsageError
from schemas.tables import ALIGNER_ROWS
from training import command_line
from training.card import model_card
from training.fit import (
    check_settings,
    describe,
    load,
    one_device,
    parameters,
    quiet,
    say,
    shared_arguments,
    slices,
    steps_per_epoch,
    tokenized_dataset,
    train_to_end,
)
from training.run_folder import Run, base_name, is_main_process, processes, versions
from training.shards import read_splits
from transforms.aligner_format import DONE, SEPARATORS, aligner_completion, aligner_prompt

MAX_RANK = 512
IGNORED = -100  # a label that takes no part in the loss
CAUSAL = ("ForCausalLM", "LMHeadModel")  # how transformers names the models that write from left to right


@dataclass(frozen=True, kw_only=True)
class Config:
    data: str = setting("folder of curated aligner shards, with train/, validation/ and perhaps test/")
    output: str = setting("folder of the trained aligner; it appears when training has ended")
    base: str = setting("causal model to start from: a folder or a hub id", "gpt2-large")
    learning_rate: float = setting("peak learning rate; it falls along a cosine", 1e-5)
    batch_size: int = setting("rows per device and forward pass", 1)
    gradient_accumulation: int = setting("forward passes per optimizer step", 16)
    eval_batch_size: int = setting("rows per device when evaluating", 8)
    max_steps: int = setting("optimizer steps", 2150)
    eval_steps: int = setting("steps between evaluations, each of which writes a checkpoint", 50)
    eval_rows: int = setting("validation rows, the first ones by id, that choose the checkpoint", 1000)
    weight_decay: float = setting("of AdamW", 0.01)
    warmup_steps: int = setting("steps of linear warm-up", 100)
    max_tokens: int = setting("tokens of question, response and correction together; longer pairs are left out", 1024)
    gradient_checkpointing: bool = setting("compute activations twice, for less memory", False)
    bf16: bool | None = setting("bfloat16 autocast (default: where a GPU supports it)", None)
    seed: int = setting("of dropout, adapters and row order", 42)
    lora_rank: int = setting("rank of LoRA adapters on all linear layers; 0 trains all weights", 0)
    lora_alpha: int = setting("scale of the adapters, as a multiple of 1 / rank", 32)
    lora_dropout: float = setting("dropout before the adapters", 0.05)
    adapter: bool = setting("keep the LoRA adapter apart, as a squad shares its base among several", False)

    def __post_init__(self) -> None:
        check_settings(
            self,
            (
                *("learning_rate", "batch_size", "gradient_accumulation", "eval_batch_size"),
                *("max_steps", "eval_steps", "eval_rows", "max_tokens"),
            ),
        )
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank = {self.lora_rank}: must not be negative; 0 trains all weights")
        if self.adapter and not 1 <= self.lora_rank <= MAX_RANK:
            raise ValueError(f"lora_rank = {self.lora_rank}: an adapter has one from 1 to {MAX_RANK}, as vLLM")


def add_separators(tokenizer: Any, model: Any) -> str:
    """Make the separators special tokens, `[DONE]` the end of sequence, and start their embeddings at the mean.

    Gives what ends a correction.

    The token before a separator takes up the space between, so that no lone space is left to be learnt.
    """
    from tokenizers import AddedToken
    from transformers import GenerationConfig

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or DONE
    known = set(tokenizer.get_vocab())
    new = [separator for separator in SEPARATORS if separator not in known]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [AddedToken(text, lstrip=True, special=True) for text in SEPARATORS]},
        replace_extra_special_tokens=False,
    )
    tokenizer.eos_token = DONE
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = tokenizer.convert_tokens_to_ids(new)
    # Also where the base had rows to spare: those are noise that was never trained.
    for layer in {model.get_input_embeddings(), model.get_output_embeddings()}:
        if ids:
            layer.weight.data[ids] = layer.weight.data[: min(ids)].mean(0)
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, token_id in marks.items():
        setattr(model.config, name, token_id)
    model.generation_config = GenerationConfig(**marks)
    return f" {DONE}"


def encoded_pairs(table: pa.Table, tokenizer: Any, max_tokens: int, end: str) -> Iterator[dict[str, list]]:
    """Batches of `input_ids` and `labels`; pairs of more than `max_tokens` tokens are left out.

    A prompt is tokenized alone, as it will be when it is generated from, and the correction, which `end` ends, after
    it without the marks that a tokenizer puts before a text.
    """
    for rows in slices(table):
        prompts = tokenizer(list(map(aligner_prompt, rows["question"], rows["response"])))["input_ids"]
        corrections = [aligner_completion(correction, end) for correction in rows["correction"]]
        completions = tokenizer(corrections, add_special_tokens=False)
        pairs = [
            (prompt, completion)
            for prompt, completion in zip(prompts, completions["input_ids"], strict=True)
            if len(prompt) + len(completion) <= max_tokens
        ]
        yield {
            "input_ids": [prompt + completion for prompt, completion in pairs],
            "labels": [[IGNORED] * len(prompt) + completion for prompt, completion in pairs],
        }


def check_prompt_end(tokenizer: Any, base: str) -> None:
    """UsageError where this tokenizer writes something after a prompt: generation would not start at `[ALIGNED]`."""
    ids, bare = (tokenizer(aligner_prompt("q", "r"), add_special_tokens=given)["input_ids"] for given in (True, False))
    if ids[-1] != bare[-1]:
        raise UsageError(
            f"base = {base!r}: its tokenizer ends every text with {tokenizer.convert_ids_to_tokens(ids[-1:])}"
        )


def end_mark(tokenizer: Any, base: str) -> str:
    """The base's end of sequence, at which what an adapter writes ends; UsageError where it has none."""
    if tokenizer.eos_token is None:
        raise UsageError(f"base = {base!r}: its tokenizer has no end of sequence, and an adapter brings none")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer.eos_token


def lora_config(config: Config, model: Any) -> Any:
    """Adapters on all linear layers; unless they are kept apart, input and output embeddings are trained in full with
    them, tied where they are tied."""
    from peft import LoraConfig

    whole: dict[str, Any] = {}
    if not config.adapter:
        names = {module: name.rpartition(".")[2] for name, module in model.named_modules()}
        embeddings = {names[model.get_input_embeddings()], names[model.get_output_embeddings()]}
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        whole = {"modules_to_save": sorted(embeddings), "ensure_weight_tying": tied}
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        **whole,
    )


def to_publish(config: Config, trained: Any) -> Any:
    """The whole model, a merged adapter included, or the adapter alone, which then names where its base lies."""
    if not config.lora_rank:
        return trained
    if not config.adapter:
        return trained.merge_and_unload()
    base = Path(config.base)
    for settings in trained.peft_config.values():
        settings.base_model_name_or_path = str(base.resolve()) if base.is_dir() else config.base
    return trained


def train(config: Config) -> dict:
    """Train, write the model folder, and give its metrics; a finished run is not trained again."""
    splits = read_splits(config.data, ALIGNER_ROWS)
    run = Run.open("aligner", to_dict(config))
    if (metrics := run.metrics()) is not None:
        say(f"{config.output}: is trained already")
        return metrics

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    quiet()
    set_seed(config.seed)
    tokenizer = load(AutoTokenizer, config.base)
    model = load(AutoModelForCausalLM, config.base, use_safetensors=True, dtype=torch.float32)
    kinds = model.config.architectures or []
    if not any(kind.endswith(CAUSAL) for kind in kinds):  # an encoder would be loaded too, and read what it is to write
        raise UsageError(f"base = {config.base!r}: is {', '.join(kinds) or 'unnamed'}, not a causal language model")
    positions = getattr(model.config, "max_position_embeddings", config.max_tokens)
    if config.max_tokens > positions:
        raise UsageError(f"max_tokens = {config.max_tokens}: this base reads {positions}; --set max_tokens={positions}")
    end = end_mark(tokenizer, config.base) if config.adapter else add_separators(tokenizer, model)
    check_prompt_end(tokenizer, config.base)
    datasets = {
        split: tokenized_dataset(encoded_pairs(table, tokenizer, config.max_tokens, end))
        for split, table in splits.items()
    }
    rows = {split: len(dataset) for split, dataset in datasets.items()}
    too_long = {split: table.num_rows - rows[split] for split, table in splits.items()}
    if empty := [split for split, count in rows.items() if not count]:
        raise UsageError(
            f"{config.data}: every pair of {empty[0]} has more than max_tokens = {config.max_tokens} tokens"
        )
    rows_per_step = config.batch_size * config.gradient_accumulation * processes()
    epoch_steps = steps_per_epoch(rows["train"], config)
    arguments = SFTConfig(
        **shared_arguments(run, config, config.max_steps),
        max_steps=config.max_steps,
        lr_scheduler_type="cosine",
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.eval_steps,
        metric_for_best_model="loss",
        gradient_checkpointing=config.gradient_checkpointing,
        # With one row per pass nothing is padded, and grouping would only make the steps less alike.
        train_sampling_strategy="group_by_length" if config.batch_size > 1 else "random",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    one_device(arguments)
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"].select(range(min(config.eval_rows, rows["validation"]))),
        processing_class=tokenizer,
        peft_config=lora_config(config, model) if config.lora_rank else None,
    )
    total, trained = parameters(trainer.model)
    tokens_per_step = rows_per_step * float(np.mean([len(ids) for ids in datasets["train"]["input_ids"]]))
    describe(
        {
            "base": f"{base_name(config.base)}, {total / 1e6:.1f}M parameters, {trained / 1e6:.1f}M of them trained",
            "rows": ", ".join(f"{split} {count:,} ({too_long[split]:,} too long)" for split, count in rows.items()),
            "step": f"{rows_per_step} rows, about {tokens_per_step:,.0f} tokens, {processes()} processes",
            "steps": f"{config.max_steps:,}, {config.max_steps / epoch_steps:.1f} times the training rows",
            "device": f"{arguments.device}, {'bfloat16' if arguments.bf16 else 'float32'}",
        }
    )
    run.begin()
    train_to_end(trainer, run)
    metrics = {
        "method": "aligner",
        **{split: final_metrics(trainer, dataset) for split, dataset in datasets.items() if split != "train"},
        "rows": rows,
        "rows_too_long": too_long,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "tokens_per_step": tokens_per_step,
        "parameters": total,
        "parameters_trained": trained,
        "versions": versions(),
        "history": trainer.state.log_history,
    }
    if is_main_process():
        trained_model = trainer.accelerator.unwrap_model(trainer.model)
        run.publish([to_publish(config, trained_model), tokenizer], metrics, card(config, run, metrics))
    trainer.accelerator.wait_for_everyone()
    say(f"{config.output}: validation loss {metrics['validation']['loss']:.4f}, that of step {metrics['best_step']}")
    return metrics


def final_metrics(trainer: Any, dataset: Any) -> dict:
    """Loss, perplexity and token accuracy of the kept checkpoint on all rows of a split, over correction tokens."""
    found = trainer.evaluate(dataset)
    if not math.isfinite(found["eval_loss"]):
        raise StageError("the validation loss is not finite; lower learning_rate and choose another output")
    return {
        "rows": len(dataset),
        "loss": found["eval_loss"],
        "perplexity": math.exp(min(found["eval_loss"], 700.0)),
        "token_accuracy": found["eval_mean_token_accuracy"],
    }


def weights_note(config: Config) -> str:
    if not config.lora_rank:
        return "All weights were fine-tuned."
    return "A LoRA adapter: load it on its base." if config.adapter else "LoRA adapters are merged into the weights."


def card(config: Config, run: Run, metrics: dict) -> str:
    return model_card(
        title="Aligner",
        summary="Rewrites a response to a question towards the criterion that its training data embodies. "
        "A rewrite can be worse than the response: keep an inspector's guard around it.",
        use="`alignbeam align … --aligner FOLDER`. Prompt: `question [INIT] response [ALIGNED]`, as "
        "`transforms.aligner_format.aligner_prompt` renders it; the model ends at "
        + ("its base's end of sequence. " if config.adapter else "`[DONE]`. ")
        + weights_note(config),
        base=base_name(config.base),
        pipeline_tag="text-generation",
        identity=run.identity,
        metrics=metrics,
    )


def main(argv: Sequence[str] | None = None) -> int:
    program = "python -m training.aligner"
    return command_line.main(argv, Config, train, program=program, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
