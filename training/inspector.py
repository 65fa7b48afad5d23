"""Train an inspector: an encoder that scores how far an answer to a question meets a criterion (paper 000, app. C).

    python -m training.inspector --config training/configs/inspector.yaml --data curated/inspector --output inspector
    torchrun --nproc-per-node 8 -m training.inspector --data curated/inspector --output inspector

A sequence classifier with two labels is fine-tuned on pairs of question and answer, label 0 misaligned and 1 aligned.
Defaults are the paper's settings. The checkpoint of the epoch with the best validation AUC is kept.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.command_line import setting
from schemas.config import to_dict
from schemas.errors import StageError, UsageError
from schemas.tables import INSPECTOR_ROWS
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
from transforms.engines.inspector import encode_pairs
from transforms.evaluation import classification

LABELS = {0: "misaligned", 1: "aligned"}
TIE_BREAK = 1e-6


@dataclass(frozen=True, kw_only=True)
class Config:
    data: str = setting("folder of curated inspector shards, with train/, validation/ and perhaps test/")
    output: str = setting("folder of the trained inspector; it appears when training has ended")
    base: str = setting("encoder to start from: a folder or a hub id", "bert-base-uncased")
    learning_rate: float = setting("peak learning rate", 2e-5)
    batch_size: int = setting("rows per device and forward pass", 8)
    gradient_accumulation: int = setting("forward passes per optimizer step", 1)
    eval_batch_size: int = setting("rows per device when evaluating", 32)
    epochs: float = setting("passes over the training rows", 4.0)
    weight_decay: float = setting("of AdamW", 0.01)
    warmup_steps: int = setting("steps of linear warm-up", 0)
    max_tokens: int = setting("tokens of question and answer; the longer of the two is cut", 512)
    bf16: bool | None = setting("bfloat16 autocast (default: where a GPU supports it)", None)
    seed: int = setting("of the head's weights, dropout and row order", 42)

    def __post_init__(self) -> None:
        check_settings(
            self, ("learning_rate", "batch_size", "gradient_accumulation", "eval_batch_size", "epochs", "max_tokens")
        )


def check_labels(splits: dict[str, pa.Table]) -> None:
    """UsageError where a split holds other labels than 0 and 1, or only one of them."""
    for split, table in splits.items():
        found = sorted(pc.unique(table.column("label")).to_pylist())
        if found != [0, 1]:
            raise UsageError(f"data/{split}: labels {found}; an inspector needs rows of both labels, 0 and 1")


def max_tokens_of(tokenizer: Any, model_config: Any, wanted: int) -> int:
    """`wanted`; UsageError where the base cannot read as many tokens."""
    limit = min(tokenizer.model_max_length, getattr(model_config, "max_position_embeddings", wanted))
    if wanted > limit:
        raise UsageError(f"max_tokens = {wanted}: this base reads {limit} tokens; --set max_tokens={limit}")
    return wanted


def encoded_rows(table: pa.Table, tokenizer: Any, max_tokens: int) -> Iterator[dict[str, list]]:
    """Batches of token ids and labels."""
    for rows in slices(table):
        yield encode_pairs(tokenizer, rows["question"], rows["answer"], max_tokens) | {"labels": rows["label"]}


def scores_of(logits_N2: np.ndarray) -> np.ndarray:
    """Probability of label 1; StageError where the model has diverged."""
    if not np.isfinite(logits_N2).all():
        raise StageError("the model's scores are not finite any more; lower learning_rate and choose another output")
    return 1 / (1 + np.exp(np.clip(logits_N2[:, 0] - logits_N2[:, 1], -700, 700).astype(np.float64)))


def validation_metrics(prediction: Any) -> dict[str, float]:
    """Accuracy, AUC and calibration of a Trainer's predictions, and `selection`, by which the best epoch is chosen.

    That is the AUC; where epochs tie in it, as easy data lets them, the better calibrated one wins.
    """
    found = classification(prediction.label_ids, scores_of(prediction.predictions), resamples=0)
    metrics = {name: value for name, value in found.items() if isinstance(value, float)}
    return metrics | {"selection": found["auc"] - TIE_BREAK * found["brier"]}


def train(config: Config) -> dict:
    """Train, write the model folder, and give its metrics; a finished run is not trained again."""
    splits = read_splits(config.data, INSPECTOR_ROWS)
    check_labels(splits)
    run = Run.open("inspector", to_dict(config))
    if (metrics := run.metrics()) is not None:
        say(f"{config.output}: is trained already")
        return metrics

    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    quiet()
    set_seed(config.seed)  # the head's weights are drawn when the base is loaded
    tokenizer = load(AutoTokenizer, config.base)
    if tokenizer.pad_token is None:
        raise UsageError(f"base = {config.base!r}: its tokenizer has no padding token; choose an encoder such as BERT")
    model = load(
        AutoModelForSequenceClassification,
        config.base,
        use_safetensors=True,
        dtype=torch.float32,
        id2label=LABELS,
        label2id={label: place for place, label in LABELS.items()},
    )
    # The classifiers' loss is the mean over a forward pass, yet they seem to take the count of all rows of a step; the
    # Trainer believes them and would then sum over accumulation and processes instead of averaging.
    model.accepts_loss_kwargs = False
    tokenizer.model_max_length = max_tokens_of(tokenizer, model.config, config.max_tokens)
    datasets = {
        split: tokenized_dataset(encoded_rows(table, tokenizer, config.max_tokens)) for split, table in splits.items()
    }
    rows = {split: table.num_rows for split, table in splits.items()}
    lengths = np.array([len(ids) for ids in datasets["train"]["input_ids"]])
    rows_per_step = config.batch_size * config.gradient_accumulation * processes()
    epoch_steps = steps_per_epoch(rows["train"], config)
    steps = int(np.ceil(epoch_steps * config.epochs))
    arguments = TrainingArguments(
        **shared_arguments(run, config, steps),
        num_train_epochs=config.epochs,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="selection",
        greater_is_better=True,
        train_sampling_strategy="group_by_length",
    )
    one_device(arguments)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=validation_metrics,
    )
    total, trained = parameters(model)
    tokens_per_step = float(lengths.mean() * rows_per_step)
    describe(
        {
            "base": f"{base_name(config.base)}, {total / 1e6:.1f}M parameters, {trained / 1e6:.1f}M of them trained",
            "rows": ", ".join(f"{split} {count:,}" for split, count in rows.items()),
            "tokens": f"{lengths.mean():.0f} a row; {(lengths == config.max_tokens).sum():,} rows are full or cut",
            "step": f"{rows_per_step} rows, about {tokens_per_step:,.0f} tokens, {processes()} processes",
            "steps": f"{epoch_steps:,} an epoch, {steps:,} in all",
            "device": f"{arguments.device}, {'bfloat16' if arguments.bf16 else 'float32'}",
        }
    )
    run.begin()
    train_to_end(trainer, run)
    metrics = {
        "method": "inspector",
        **{split: final_metrics(trainer, dataset) for split, dataset in datasets.items() if split != "train"},
        "rows": rows,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "tokens_per_step": tokens_per_step,
        "parameters": total,
        "versions": versions(),
        "history": trainer.state.log_history,
    }
    if is_main_process():
        run.publish([trainer.accelerator.unwrap_model(trainer.model), tokenizer], metrics, card(config, run, metrics))
    trainer.accelerator.wait_for_everyone()
    say(f"{config.output}: validation AUC {metrics['validation']['auc']:.4f}, that of step {metrics['best_step']}")
    return metrics


def final_metrics(trainer: Any, dataset: Any) -> dict:
    """Metrics of the kept checkpoint on a split, with bootstrap intervals."""
    prediction = trainer.predict(dataset)
    return classification(prediction.label_ids, scores_of(prediction.predictions))


def card(config: Config, run: Run, metrics: dict) -> str:
    return model_card(
        title="Inspector",
        summary="Scores in [0, 1] how far an answer to a question meets the criterion that its training data embodies: "
        "the softmax of label 1 (aligned). A relative measure of the criterion's data, no guarantee about any answer.",
        use="`alignbeam align … --inspector FOLDER`, or "
        "`transforms.engines.inspector.Inspector(FOLDER).score(questions, answers)`. "
        "Question and answer are encoded as a pair; the longer of the two is cut.",
        base=base_name(config.base),
        pipeline_tag="text-classification",
        identity=run.identity,
        metrics=metrics,
    )


def main(argv: Sequence[str] | None = None) -> int:
    program = "python -m training.inspector"
    return command_line.main(argv, Config, train, program=program, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
