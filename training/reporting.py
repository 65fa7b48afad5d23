"""Where a training's losses are sent, beside the terminal: TensorBoard's files or Weights & Biases.

    <output>.logs/    TensorBoard's files, unless TENSORBOARD_LOGGING_DIR names another folder

What Weights & Biases needs to know, its key among it, comes from its own variables of the environment.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from schemas.errors import UsageError
from training.run_folder import TrainingRun, check_plain

if TYPE_CHECKING:
    from transformers import Trainer

ReportTo = Literal["none", "tensorboard", "wandb"]
PACKAGES: dict[str, tuple[str, ...]] = {"none": (), "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def check_installed(report_to: ReportTo) -> None:
    """Raise UsageError where the package that losses are sent by is not installed."""
    packages = PACKAGES[report_to]
    if packages and not any(map(find_spec, packages)):
        raise UsageError(
            f"report_to = {report_to}: the package {packages[0]} is not installed; pip install {packages[0]}, or leave "
            "report_to out"
        )


def put_logs_beside(trainer: "Trainer", run: TrainingRun) -> None:
    """Have TensorBoard's files beside the model, where they outlive the checkpoints; UsageError for links there."""
    from transformers.integrations import TensorBoardCallback

    callbacks: list[Any] = trainer.callback_handler.callbacks
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            check_plain(run.logs)
            callback.logging_dir = str(run.logs)
