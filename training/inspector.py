"""Train an inspector: an encoder that scores how far an answer to a question meets a criterion (paper 000, app. C).

    python -m training.inspector --config training/configs/inspector.yaml --data curated/inspector --output inspector
    torchrun --nproc-per-node 8 -m training.inspector --data curated/inspector --output inspector

A sequence classifier with two labels is fine-tuned on pairs of question and answer, label 0 misaligned and 1 aligned.
Defaults are the paper's settings. The checkpoint of the epoch with the best validation AUC is kept.

Axes of arrays: N rows, 2 labels.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import StageError, UsageError
from schemas.fields import Seed, setting, takes, uses
from schemas.tables import INSPECTOR_ROWS
from training import command_line
from training.card import Card
from training.fit import (
    TrainerSettings,
    check_max_tokens,
    check_positive,
    finished_metrics,
    fit,
    load,
    say,
    slices,
    start,
    tokenized_dataset,
    training_arguments,
)
from training.reporting import check_installed
from training.run_folder import TrainingRun, base_name
from training.shards import read_splits
from transforms.engines.inspector import encode_pairs
from transforms.evaluation.classification import classification

LABELS = {0: "misaligned", 1: "aligned"}
TIE_BREAK = 1e-6


@dataclass(frozen=True, kw_only=True)
class Config(TrainerSettings):
    data: str = takes(
        "folder of curated inspector shards, with train/, validation/ and perhaps test/",
        *("id", "question", "response", "correction", "inspector_split"),
    )
    output: str = setting(
        "folder of the trained inspector; it appears when training has ended", short="-o", of_run=True
    )
    base: str = uses("encoder", "encoder to start from: a folder or a hub id", "bert-base-uncased")
    learning_rate: float = setting("peak learning rate", 2e-5)
    eval_batch_size: int = setting("rows per device when evaluating", 32)
    epochs: float = setting("passes over the training rows", 4.0)
    max_tokens: int = setting("tokens of question and answer; the longer of the two is cut", 512)
    seed: Seed = setting("of the head's weights, dropout and row order", 42)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs")


def check_labels(splits: dict[str, pa.Table]) -> None:
    """Raise UsageError unless every split has the labels 0 and 1, and no others."""
    for split, table in splits.items():
        labels = sorted(pc.unique(table.column("label")).to_pylist())
        if labels != [0, 1]:
            raise UsageError(f"data/{split}: labels {labels}; an inspector needs rows of both labels, 0 and 1")


def load_classifier(config: Config) -> tuple[Any, Any]:
    """Load tokenizer and encoder, with a new head for two labels.

    Raises UsageError where they do not suit.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = load(AutoTokenizer, config.base)
    if tokenizer.pad_token is None:
        raise UsageError(f"base = {config.base!r}: its tokenizer has no padding token; choose an encoder such as BERT")
    model = load(
        AutoModelForSequenceClassification,
        config.base,
        dtype=torch.float32,
        id2label=LABELS,
        label2id={name: label for label, name in LABELS.items()},
    )
    # A classifier's loss is the mean over a forward pass, yet its `forward` seems to accept the rows of a step.
    # The Trainer would therefore sum losses over accumulation and processes, where it has to average them.
    model.accepts_loss_kwargs = False
    positions = getattr(model.config, "max_position_embeddings", config.max_tokens)
    check_max_tokens(config.max_tokens, min(tokenizer.model_max_length, positions))
    tokenizer.model_max_length = config.max_tokens
    return tokenizer, model


def encoded_rows(table: pa.Table, tokenizer: Any, max_tokens: int) -> Iterator[dict[str, list]]:
    """Yield batches of token ids and labels."""
    for rows in slices(table):
        yield encode_pairs(tokenizer, rows["question"], rows["answer"], max_tokens) | {"labels": rows["label"]}


def scores_of(logits_N2: np.ndarray) -> np.ndarray:
    """Return the probability of label 1, which is 0.88 for logits [0, 2].

    Raises StageError where the model has diverged.
    """
    if not np.isfinite(logits_N2).all():
        raise StageError("the model's scores are not finite any more; lower learning_rate and choose another output")
    return 1 / (1 + np.exp(np.clip(logits_N2[:, 0] - logits_N2[:, 1], -700, 700).astype(np.float64)))


def validation_metrics(prediction: Any) -> dict[str, float]:
    """Return accuracy, AUC, calibration and `selection`, by which the best epoch is chosen.

    Selection is the AUC; where epochs tie in it, as easy data lets them, the better calibrated one wins.
    """
    metrics = classification(prediction.label_ids, scores_of(prediction.predictions), resamples=0)
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    return numbers | {"selection": metrics["auc"] - TIE_BREAK * metrics["brier"]}


def arguments(config: Config, run: TrainingRun, rows: int) -> Any:
    """Return the arguments of transformers' trainer for `rows` of training data."""
    from transformers import TrainingArguments

    return training_arguments(
        TrainingArguments,
        run,
        config,
        rows,
        num_train_epochs=config.epochs,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="selection",
        greater_is_better=True,
        train_sampling_strategy="group_by_length",
    )


def train(config: Config) -> dict:
    """Train an inspector, publish its folder, return its metrics; a finished run is not trained again."""
    check_installed(config.report_to)
    splits = read_splits(config.data, INSPECTOR_ROWS)
    check_labels(splits)
    run = TrainingRun.open("inspector", config)
    if (metrics := finished_metrics(run)) is not None:
        return metrics

    from transformers import DataCollatorWithPadding, Trainer

    start(config.seed)
    tokenizer, model = load_classifier(config)
    datasets = {
        split: tokenized_dataset(encoded_rows(table, tokenizer, config.max_tokens)) for split, table in splits.items()
    }
    lengths = np.array([len(ids) for ids in datasets["train"]["input_ids"]])
    trainer = Trainer(
        model=model,
        args=arguments(config, run, len(lengths)),
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=validation_metrics,
    )
    full = int((lengths == config.max_tokens).sum())
    metrics = fit(
        run,
        trainer,
        datasets,
        tokens_per_row=float(lengths.mean()),
        measure=split_metrics,
        card=card(config),
        description={"tokens": f"{lengths.mean():.0f} a row; {full:,} rows are full or cut"},
    )
    say(f"{config.output}: validation AUC {metrics['validation']['auc']:.4f}, that of step {metrics['best_step']}")
    return metrics


def split_metrics(trainer: Any, dataset: Any) -> dict:
    """Return the metrics of the kept checkpoint on a split, with bootstrap intervals."""
    prediction = trainer.predict(dataset)
    return classification(prediction.label_ids, scores_of(prediction.predictions))


def card(config: Config) -> Card:
    """Return what the model's card says of an inspector."""
    return Card(
        title="Inspector",
        summary="Scores in [0, 1] how far an answer to a question meets the criterion that its training data embodies: "
        "the softmax of label 1 (aligned). A relative measure of the criterion's data, no guarantee about any answer.",
        use="`alignbeam align … --inspector FOLDER`, or "
        "`transforms.engines.inspector.Inspector(FOLDER).score(questions, answers)`. "
        "Question and answer are encoded as a pair; the longer of the two is cut.",
        base=base_name(config.base),
        pipeline_tag="text-classification",
    )


def main(argv: Sequence[str] | None = None) -> int:
    program = "python -m training.inspector"
    return command_line.main(argv, Config, train, program=program, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
