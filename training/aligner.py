"""Train an aligner: a causal model that rewrites a response to a question (paper 000, section 2 and app. C).

    python -m training.aligner --config training/configs/aligner_gpt2_large.yaml --data curated/aligner --output aligner
    torchrun --nproc-per-node 8 -m training.aligner --data curated/aligner --output aligner --gradient-accumulation 2

`transforms.training_data.aligner_format` renders the texts. The separators are special tokens, and the loss is on the
correction and its end mark only. Pairs too long for the model are left out and counted: a correction is never cut.
Defaults are the paper's settings for GPT-2 Large. The checkpoint with the least validation loss is kept.

The output is one model folder, which vLLM and transformers load as it is; the model ends at `[DONE]` by itself. A LoRA
adapter is merged into it, because the separators' embeddings are trained as well and vLLM loads no adapter that changes
embeddings.

With `adapter` the adapter stays apart, because a squad's adapters share one base. The tokenizer is then the base's own,
the separators are plain text, the base's end of sequence ends a correction, and the adapter alone is trained. The
output is a PEFT folder that names its base.
"""
# Axes of tensors: V tokens of the vocabulary, D dimensions of an embedding.

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.fields import Seed, setting, takes, uses
from schemas.tables import ALIGNER_ROWS
from training import command_line
from training.card import Card
from training.causal import (
    CausalSettings,
    check_prompt_end,
    completion_metrics,
    encode_completions,
    encode_splits,
    end_mark,
    load_causal,
    lora_config,
    model_to_publish,
    rows_with_too_long,
    weights_note,
)
from training.fit import check_positive, finished_metrics, fit, parameters, say, slices, start, training_arguments
from training.reporting import check_installed
from training.run_folder import TrainingRun, base_name
from training.shards import read_splits
from transforms.training_data.aligner_format import END, SEPARATORS, aligner_completion, aligner_prompt

MAX_RANK = 512


@dataclass(frozen=True, kw_only=True)
class Config(CausalSettings):
    data: str = takes(
        "folder of curated aligner shards, with train/, validation/ and perhaps test/",
        *("id", "question", "response", "correction", "split"),
    )
    output: str = setting("folder of the trained aligner; it appears when training has ended", short="-o", of_run=True)
    base: str = uses("base", "causal model to start from: a folder or a hub id", "gpt2-large")
    learning_rate: float = setting("peak learning rate; it falls along a cosine", 1e-5)
    batch_size: int = setting("rows per device and forward pass", 1)
    gradient_accumulation: int = setting("forward passes per optimizer step", 16)
    max_steps: int = setting("optimizer steps", 2150)
    eval_steps: int = setting("steps between evaluations, each of which writes a checkpoint", 50)
    eval_rows: int = setting("validation rows, the first ones by id, that choose the checkpoint", 1000)
    warmup_steps: int = setting("steps of linear warm-up", 100)
    max_tokens: int = setting("tokens of question, response and correction together; longer pairs are left out", 1024)
    seed: Seed = setting("of dropout, adapters and row order", 42)
    adapter: bool = setting("keep the LoRA adapter apart, as a squad shares its base among several", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps", "eval_steps", "eval_rows")
        if self.adapter and not 1 <= self.lora_rank <= MAX_RANK:
            raise ValueError(f"lora_rank = {self.lora_rank}: an adapter has one from 1 to {MAX_RANK}, as vLLM")


def add_separators(tokenizer: Any, model: Any) -> str:
    """Make the separators special tokens, with the mean as embedding; return what ends a correction.

    `[DONE]` becomes the end of sequence. A separator's token includes the space before it, so that no lone space is
    left to be learnt.
    """
    from tokenizers import AddedToken
    from transformers import GenerationConfig

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or END
    vocabulary = set(tokenizer.get_vocab())
    new = [separator for separator in SEPARATORS if separator not in vocabulary]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [AddedToken(text, lstrip=True, special=True) for text in SEPARATORS]},
        replace_extra_special_tokens=False,
    )
    tokenizer.eos_token = END
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = tokenizer.convert_tokens_to_ids(new)
    # Weights are [V, D]. Spare rows of the base are set as well, because they are noise that was never trained.
    for layer in {model.get_input_embeddings(), model.get_output_embeddings()}:
        if ids:
            layer.weight.data[ids] = layer.weight.data[: min(ids)].mean(0)
    mark_ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, token_id in mark_ids.items():
        setattr(model.config, name, token_id)
    model.generation_config = GenerationConfig(**mark_ids)
    return f" {END}"


def encoded_pairs(table: pa.Table, tokenizer: Any, max_tokens: int, end: str) -> Iterator[dict[str, list]]:
    """Yield batches of `input_ids` and `labels`; `end` ends a correction, pairs over `max_tokens` are left out."""
    for rows in slices(table):
        prompts = list(map(aligner_prompt, rows["question"], rows["response"]))
        corrections = [aligner_completion(correction, end) for correction in rows["correction"]]
        yield encode_completions(prompts, corrections, tokenizer, max_tokens)


def arguments(config: Config, run: TrainingRun, rows: int) -> Any:
    """Return the arguments of TRL's trainer for `rows` of training data."""
    from trl import SFTConfig

    return training_arguments(
        SFTConfig,
        run,
        config,
        rows,
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


def train(config: Config) -> dict:
    """Train an aligner, publish its folder, return its metrics; a finished run is not trained again."""
    check_installed(config.report_to)
    splits = read_splits(config.data, ALIGNER_ROWS)
    run = TrainingRun.open("aligner", config)
    if (metrics := finished_metrics(run)) is not None:
        return metrics

    from trl import SFTTrainer

    start(config.seed)
    tokenizer, model = load_causal(config)
    end = end_mark(tokenizer, config.base) if config.adapter else add_separators(tokenizer, model)
    check_prompt_end(tokenizer, config.base, aligner_prompt("q", "r"))
    encode = partial(encoded_pairs, tokenizer=tokenizer, max_tokens=config.max_tokens, end=end)
    datasets, too_long = encode_splits(splits, encode, config)
    validation = datasets["validation"]
    trainer = SFTTrainer(
        model=model,
        args=arguments(config, run, len(datasets["train"])),
        train_dataset=datasets["train"],
        eval_dataset=validation.select(range(min(config.eval_rows, len(validation)))),
        processing_class=tokenizer,
        peft_config=lora_config(config, model, train_embeddings=not config.adapter),
    )
    metrics = fit(
        run,
        trainer,
        datasets,
        tokens_per_row=float(np.mean([len(ids) for ids in datasets["train"]["input_ids"]])),
        measure=completion_metrics,
        card=card(config),
        description={"rows": rows_with_too_long(datasets, too_long)},
        facts={"rows_too_long": too_long, "parameters_trained": parameters(trainer.model)[1]},
        to_publish=partial(model_to_publish, config, adapter=config.adapter),
    )
    say(f"{config.output}: validation loss {metrics['validation']['loss']:.4f}, that of step {metrics['best_step']}")
    return metrics


def card(config: Config) -> Card:
    """Return what the model's card says of an aligner."""
    end = "its base's end of sequence" if config.adapter else "`[DONE]`"
    return Card(
        title="Aligner",
        summary="Rewrites a response to a question towards the criterion that its training data embodies. "
        "A rewrite can be worse than the response: keep an inspector's guard around it.",
        use="`alignbeam align … --aligner FOLDER`. Prompt: `question [INIT] response [ALIGNED]`, as "
        f"`transforms.training_data.aligner_format.aligner_prompt` renders it; the model ends at {end}. "
        + weights_note(config, adapter=config.adapter),
        base=base_name(config.base),
        pipeline_tag="text-generation",
    )


def main(argv: Sequence[str] | None = None) -> int:
    program = "python -m training.aligner"
    return command_line.main(argv, Config, train, program=program, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
