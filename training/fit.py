"""What the trainers ask of transformers' Trainer alike: precision, places, reproducibility and one line of progress."""

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from schemas.console import results
from schemas.errors import StageError, UsageError
from training.run_folder import Run, is_main_process, processes

if TYPE_CHECKING:
    from transformers import Trainer

TOKENIZED_ROWS = 1000
LOGGED_STEPS = 200
PROGRESS_SECONDS = 10.0


class TrainerSettings(Protocol):
    """The settings that every trainer has."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def eval_batch_size(self) -> int: ...
    @property
    def gradient_accumulation(self) -> int: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def bf16(self) -> bool | None: ...
    @property
    def seed(self) -> int: ...


def say(line: str) -> None:
    """Print a line, once for all processes."""
    if is_main_process():
        results.print(line, soft_wrap=True)


def check_settings(settings: TrainerSettings, names: Iterable[str]) -> None:
    """ValueError naming the first of these settings that is not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} = {getattr(settings, name)}: must be above 0")


def load(loader: Any, base: str, **arguments: Any) -> Any:
    """`loader.from_pretrained` without remote code or pickled weights; UsageError where that cannot be."""
    try:
        return loader.from_pretrained(base, trust_remote_code=False, **arguments)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"base = {base!r}: cannot be loaded by {loader.__name__}: {reason}") from error


def tokenized_dataset(batches: Iterable[dict[str, list]]) -> Any:
    """A `datasets.Dataset` in memory from batches of columns of integers or of lists of them."""
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
    """The columns of a table as lists, a thousand rows at a time."""
    for first in range(0, table.num_rows, TOKENIZED_ROWS):
        yield table.slice(first, TOKENIZED_ROWS).to_pydict()


def steps_per_epoch(rows: int, settings: TrainerSettings) -> int:
    """Optimizer steps for one pass, as the Trainer counts them."""
    batches = -(-rows // (settings.batch_size * processes()))
    return -(-batches // settings.gradient_accumulation)


def shared_arguments(run: Run, settings: TrainerSettings, steps: int) -> dict[str, Any]:
    """Arguments of TrainingArguments for a run of so many steps; silent, seeded, best checkpoint loaded at the end."""
    import torch

    has_cuda = torch.cuda.is_available()
    on_cpu = not torch.accelerator.is_available()
    return {
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
        "logging_steps": max(1, steps // LOGGED_STEPS),
        "report_to": "none",
        "disable_tqdm": True,
    }


def one_device(arguments: Any) -> None:
    """Have a process drive one GPU: spreading one process over all would multiply the batch behind the user's back."""
    if arguments.n_gpu > 1:
        say(f"{arguments.n_gpu} GPUs are visible and one is used; torchrun --nproc-per-node {arguments.n_gpu} uses all")
        arguments._n_gpu = 1


def quiet() -> None:
    """No progress bars and no load reports: what matters is printed here, a line at a time."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    # peft says at every checkpoint that it saves the embeddings, which is what we asked it to do.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\.")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def describe(quantities: dict[str, str]) -> None:
    """Print what a run amounts to, before its first step."""
    width = max(map(len, quantities))
    for name, value in quantities.items():
        say(f"{name:<{width}}  {value}")


def parameters(model: Any) -> tuple[int, int]:
    """All parameters of a model, and those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def train_to_end(trainer: "Trainer", run: Run) -> None:
    """Train with one line of progress every few seconds, from the last checkpoint if there is one.

    Raises StageError where the memory or the disk does not hold it.
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
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Prints losses every few seconds and every evaluation."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started, self.first_step, self.printed = time.monotonic(), state.global_step, 0.0

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
            shown = ("eval_loss", "eval_accuracy", "eval_auc", "eval_mean_token_accuracy")
            values = "  ".join(f"{name.removeprefix('eval_')} {metrics[name]:.4f}" for name in shown if name in metrics)
            say(f"step {state.global_step}/{state.max_steps}  validation  {values}")

    return Progress()
