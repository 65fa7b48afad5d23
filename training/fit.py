"""The life of a training: settings, quantities, training with resume, metrics, and the model's folder.

Each trainer's own module says which texts, which loss and which arguments; `fit` does what is the same for all:

    print what the run amounts to -> claim its work folder -> train, from the last checkpoint if there is one -> measure
    the kept checkpoint -> publish the model's folder

The trainer's own `train` opens the run and loads the base before that.
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.console import results
from schemas.errors import StageError, UsageError
from schemas.fields import Seed, setting, takes, uses
from training.card import Card, model_card
from training.reporting import ReportTo, put_logs_beside
from training.run_folder import TrainingRun, is_main_process, processes, versions
from transforms.engines import pretrained

if TYPE_CHECKING:
    from transformers import Trainer

TOKENIZED_ROWS = 1000
LOGGED_STEPS = 200
PROGRESS_SECONDS = 10.0
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The settings that all trainers have; a trainer's Config adds its own, and its own defaults."""

    data: str = takes("folder of curated shards, with train/, validation/ and perhaps test/")
    output: str = setting("folder of the trained model; it appears when training has ended", short="-o", of_run=True)
    base: str = uses("base", "model to start from: a folder or a hub id")
    learning_rate: float = setting("peak learning rate")
    batch_size: int = setting("rows per device and forward pass", 8)
    gradient_accumulation: int = setting("forward passes per optimizer step", 1)
    eval_batch_size: int = setting("rows per device when evaluating", 8)
    weight_decay: float = setting("of AdamW", 0.01)
    warmup_steps: int = setting("steps of linear warm-up", 0)
    max_tokens: int = setting("tokens of a row")
    bf16: bool | None = setting("bfloat16 autocast (default: where a GPU supports it)", None)
    seed: Seed = setting("of dropout and row order", 42)
    report_to: ReportTo = setting("where losses are sent: none, tensorboard or wandb", "none", decides=False)

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "batch_size", "gradient_accumulation", "eval_batch_size", "max_tokens")


def check_positive(settings: TrainerSettings, *names: str) -> None:
    """Raise ValueError naming the first of these settings that is not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} = {getattr(settings, name)}: must be above 0")


def check_max_tokens(max_tokens: int, limit: int) -> None:
    """Raise UsageError where the base reads fewer tokens than `max_tokens`."""
    if max_tokens > limit:
        raise UsageError(f"max_tokens = {max_tokens}: this base reads {limit} tokens; --set max_tokens={limit}")


def fit(
    run: TrainingRun,
    trainer: "Trainer",
    datasets: Mapping[str, Any],
    *,
    tokens_per_row: float,
    measure: Callable[["Trainer", Any], dict],
    card: Card,
    description: Mapping[str, str] = NOTHING,
    facts: Mapping[str, Any] = NOTHING,
    to_publish: Callable[[Any], Any] = lambda model: model,
) -> dict:
    """Train to the end, measure, publish the model's folder; return its metrics.

    datasets: rows by split, `train` and `validation` at least.
    measure: computes the metrics of one split other than `train`.
    description: lines to print before the first step, see `print_quantities`.
    facts: further metrics that are known before training.
    to_publish: makes of the trained model what is written.
    """
    rows = {split: len(dataset) for split, dataset in datasets.items()}
    tokens_per_step = rows_per_step(trainer.args) * tokens_per_row
    put_logs_beside(trainer, run)
    print_quantities(trainer, rows, tokens_per_step, card.base, description)
    run.begin()
    train_to_end(trainer, run)
    history = list(trainer.state.log_history)  # without what measuring the splits logs, the test split among them
    metrics = {
        "method": run.identity["method"],
        **{split: measure(trainer, dataset) for split, dataset in datasets.items() if split != "train"},
        "rows": rows,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "tokens_per_step": tokens_per_step,
        "parameters": parameters(trainer.model)[0],
        **facts,
        "versions": versions(),
        "history": history,
    }
    if is_main_process():
        model = to_publish(trainer.accelerator.unwrap_model(trainer.model))
        run.publish([model, trainer.processing_class], metrics, model_card(card, run.identity, metrics))
    trainer.accelerator.wait_for_everyone()
    return metrics


def finished_metrics(run: TrainingRun) -> dict | None:
    """Return the metrics of a finished run, and say that it is one; else None."""
    metrics = run.metrics()
    if metrics is not None:
        say(f"{run.output}: is trained already")
    return metrics


def start(seed: int) -> None:
    """Make training silent and reproducible, before the base is loaded.

    Loading draws the weights of new heads.
    """
    from transformers import set_seed

    quiet()
    set_seed(seed)


def say(line: str) -> None:
    """Print a line, in the main process only."""
    if is_main_process():
        results.print(line, soft_wrap=True)


def load(loader: Any, base: str, **arguments: Any) -> Any:
    """Load a base as transforms.engines.pretrained does; raise UsageError where it cannot be."""
    try:
        return pretrained.load(loader, base, **arguments)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"base = {base!r}: cannot be loaded by {loader.__name__}: {reason}") from error


def tokenized_dataset(batches: Iterable[dict[str, list]]) -> Any:
    """Return a `datasets.Dataset` in memory, from batches of columns: integers, or lists of integers."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    tables = [
        pa.table({name: pa.array(values, _integers(values)) for name, values in batch.items()})
        for batch in batches
        if all(batch.values())  # a batch may be left with no rows
    ]
    return Dataset(InMemoryTable(pa.concat_tables(tables) if tables else pa.table({})))


def _integers(values: list) -> pa.DataType:
    return pa.list_(pa.int32()) if isinstance(values[0], list) else pa.int64()


def slices(table: pa.Table) -> Iterator[dict[str, list]]:
    """Yield the columns of a table as lists, a thousand rows at a time."""
    for first in range(0, table.num_rows, TOKENIZED_ROWS):
        yield table.slice(first, TOKENIZED_ROWS).to_pydict()


def rows_per_step(arguments: Any) -> int:
    """Return the rows of one optimizer step, over all processes."""
    return arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * processes()


def steps_per_epoch(arguments: Any, rows: int) -> int:
    """Return the optimizer steps of one pass over `rows`, as the Trainer counts them.

    10 rows in batches of 4 are 3 batches; with an accumulation of 2 they are 2 steps.
    """
    batches = math.ceil(rows / (arguments.per_device_train_batch_size * processes()))
    return math.ceil(batches / arguments.gradient_accumulation_steps)


def total_steps(arguments: Any, rows: int) -> int:
    """Return the optimizer steps of a whole training on `rows`."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    return math.ceil(steps_per_epoch(arguments, rows) * arguments.num_train_epochs)


def training_arguments(arguments_class: Any, run: TrainingRun, settings: TrainerSettings, rows: int, **own: Any) -> Any:
    """Return a trainer's arguments for `rows` of training data.

    They are those of all trainers, and its own, which win. Training is silent and seeded, and the best checkpoint is
    loaded at its end.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    on_cpu = not torch.accelerator.is_available()
    shared = {
        "output_dir": str(run.checkpoints),
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.eval_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup_steps,
        "seed": settings.seed,
        "bf16": has_cuda and torch.cuda.is_bf16_supported() if settings.bf16 is None else settings.bf16,
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and processes() > 1 else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": has_cuda,
        "load_best_model_at_end": True,
        "save_total_limit": 2,
        "report_to": settings.report_to,
        "disable_tqdm": True,
    }
    arguments = arguments_class(**shared | own)
    arguments.logging_steps = max(1, total_steps(arguments, rows) // LOGGED_STEPS)
    one_device(arguments)
    return arguments


def one_device(arguments: Any) -> None:
    """Use one GPU a process.

    A process that spreads over all of them multiplies the batch unasked.
    """
    if arguments.n_gpu > 1:
        say(f"{arguments.n_gpu} GPUs are visible and one is used; torchrun --nproc-per-node {arguments.n_gpu} uses all")
        arguments._n_gpu = 1


def quiet() -> None:
    """Silence progress bars and load reports: this module prints what matters, a line at a time.

    What is still logged goes the way of `pretrained.load`.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    # PEFT warns at every checkpoint that it saves the embeddings, as it was asked to.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\.")
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def print_quantities(
    trainer: "Trainer", rows: Mapping[str, int], tokens_per_step: float, base: str, description: Mapping[str, str]
) -> None:
    """Print what a run amounts to.

    `description` replaces the line of rows, or adds lines after it.
    """
    arguments: Any = trainer.args
    total, trained = parameters(trainer.model)
    lines = {
        "base": f"{base}, {total / 1e6:.1f}M parameters, {trained / 1e6:.1f}M of them trained",
        "rows": ", ".join(f"{split} {count:,}" for split, count in rows.items()),
        **description,
        "step": f"{rows_per_step(arguments)} rows, about {tokens_per_step:,.0f} tokens, {processes()} processes",
        "steps": f"{steps_per_epoch(arguments, rows['train']):,} an epoch, "
        f"{total_steps(arguments, rows['train']):,} in all",
        "device": f"{arguments.device}, {'bfloat16' if arguments.bf16 else 'float32'}",
    }
    say_lines(lines)


def say_lines(lines: Mapping[str, str]) -> None:
    """Print values by name, aligned, in the main process only."""
    width = max(map(len, lines))
    for name, value in lines.items():
        say(f"{name:<{width}}  {value}")


def parameters(model: Any) -> tuple[int, int]:
    """Return how many parameters a model has, and how many of them are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def train_to_end(trainer: "Trainer", run: TrainingRun) -> None:
    """Train from the last checkpoint if there is one, with a line of progress now and then.

    Raises StageError where memory or disk is full.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(progress_callback())
    if checkpoint := run.last_checkpoint():
        say(f"going on from {os.path.basename(checkpoint)}")
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except torch.OutOfMemoryError as error:
        raise StageError("the device's memory is full; halve batch_size and double gradient_accumulation") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        raise StageError(f"{run.checkpoints}: cannot be written: {error}; the same command goes on") from error


def progress_callback() -> Any:
    """Return the Trainer's callback that prints progress; its class needs transformers, which is loaded late."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Print losses every few seconds, and every evaluation while the model learns."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started, self.first_step, self.printed = time.monotonic(), state.global_step, 0.0
            self.is_training = True

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.is_training = False

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            now = time.monotonic()
            if "loss" not in (logs or {}) or now - self.printed < (1.0 if results.is_terminal else PROGRESS_SECONDS):
                return
            self.printed = now
            rate = (state.global_step - self.first_step) / max(now - self.started, 1e-9)
            left = (state.max_steps - state.global_step) / rate if rate else 0.0
            say(
                f"step {state.global_step}/{state.max_steps}  epoch {state.epoch:.2f}  loss {logs['loss']:.4f}  "
                f"lr {logs['learning_rate']:.2e}  {rate:.2f} steps/s  {left:.0f} s left"
            )

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            if not self.is_training:  # the splits are measured, the test split too
                return
            shown = ("eval_loss", "eval_accuracy", "eval_auc", "eval_mean_token_accuracy")
            values = "  ".join(f"{name.removeprefix('eval_')} {metrics[name]:.4f}" for name in shown if name in metrics)
            say(f"step {state.global_step}/{state.max_steps}  validation  {values}")

    return Progress()
