"""What a run would cost, before anything is spent: rows, tokens, memory, hours.

Counts of rows and prompts are exact or upper bounds. Tokens are estimated from text (a token is about four bytes of
English) or are the limit of what may be generated. Hours follow from a stated throughput, which is a guess and is
printed with them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table as Grid

from schemas.command_line import DONE
from schemas.console import messages
from transforms.engines.encoder import model_config
from transforms.engines.engine import EngineConfig

BYTES_PER_TOKEN = 4.0
SAMPLE_ROWS = 200
BYTES_PER_PARAMETER = 2  # bf16
GPU_FLOPS = 2e14  # what a current data-centre GPU reaches in batched generation
CPU_FLOPS = 2e11


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of one step. `generated_tokens` is an upper bound: rows times the limit of a completion."""

    step: str
    model: str
    rows: int
    prompt_tokens: int
    generated_tokens: int
    parameters: int | None = None

    @property
    def memory_gb(self) -> float | None:
        """Return the weights' size in bf16; the KV cache comes on top."""
        return None if self.parameters is None else self.parameters * BYTES_PER_PARAMETER / 1e9

    def hours(self, flops: float) -> float | None:
        """Return the hours at `flops` per second: 2 per parameter and token (prompt and generated alike)."""
        if self.parameters is None:
            return None
        return 2 * self.parameters * (self.prompt_tokens + self.generated_tokens) / flops / 3600


def tokens_of(text: str) -> int:
    return max(1, round(len(text.encode()) / BYTES_PER_TOKEN))


def parameters_of(config: EngineConfig) -> int | None:
    """Return a model's parameters, from its folder's weights or its hub id ('…-8B').

    It is None where neither tells. Raises UsageError where the folder holds no model.
    """
    folder = Path(config.model)
    if folder.is_dir() and not (folder / "adapter_config.json").is_file():  # an adapter's weights are not the model's
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return weights // (4 if "float32" in str(model_config(folder)) else BYTES_PER_PARAMETER)
    size = re.search(r"(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", config.model.lower())
    if not size:
        return None
    return round(float(size.group(1)) * (1e9 if size.group(2) == "b" else 1e6))


def print_plan(estimates: Sequence[Estimate]) -> int:
    """Print the estimates as a table with what they rest on; return the exit code."""
    grid = Grid(title="plan (nothing was loaded, asked or spent)", title_justify="left")
    for heading in ("step", "model", "rows", "prompt tokens", "generated tokens, at most", "weights", "GPU h", "CPU h"):
        grid.add_column(heading, justify="left" if heading in ("step", "model") else "right")
    for estimate in estimates:
        grid.add_row(
            estimate.step,
            estimate.model,
            f"{estimate.rows:,}",
            f"{estimate.prompt_tokens:,}",
            f"{estimate.generated_tokens:,}",
            _unknown(estimate.memory_gb, "{:,.1f} GB"),
            _unknown(estimate.hours(GPU_FLOPS), "{:,.1f}"),
            _unknown(estimate.hours(CPU_FLOPS), "{:,.1f}"),
        )
    messages.print(grid)
    messages.print(
        "Tokens are estimated from text at four bytes each; hours assume "
        f"{GPU_FLOPS:.0e} FLOP/s per GPU and {CPU_FLOPS:.0e} per CPU, 2 FLOP per parameter and token; divide by GPUs."
    )
    return DONE


def _unknown(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)
