"""What the scoring engines share: which folder is a model, its digest, and batches made from content alone.

Rows are sorted by length and token ids before they are cut into batches, so neither the order nor the timing of calls
decides which rows are padded together. Scores of one row in two different batches agree to about 1e-6 in float32.
"""

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.errors import UsageError
from transforms.engines.engine import digest_of
from transforms.engines.pretrained import read_object, refuse_code
from transforms.engines.weights import TOKENIZER_FILES, file_digests, find_weights

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# Padded tokens in one forward pass. A CPU gains nothing from more, it only pads more (measured with MiniLM: 68, 57 and
# 28 rows/s on one core at 1,024, 4,096 and 16,384); a GPU needs them to be busy.
CPU_BATCH_TOKENS = 1024
GPU_BATCH_TOKENS = 32_768

_opened: dict[tuple[Callable, str], Any] = {}
_opening = threading.Lock()


def model_config(folder: str | Path) -> dict:
    """Read `config.json` of a model folder.

    Raises UsageError where it is no model in safetensors, or asks for code.
    """
    typed, folder = str(folder), Path(folder)  # a Path takes one slash of a URL away
    if not os.path.isdir(folder):  # a Path raises where a name is too long
        hint = "; models that score or embed texts are local folders" if "://" in typed else ""
        raise UsageError(f"{typed}: no such model folder{hint}")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: not a model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder}: has no *.safetensors; pickled weights are not loaded, convert them first")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        raise UsageError(f"{folder}: has no tokenizer files beside its weights")
    refuse_code(folder)
    return read_object(folder / "config.json")


def model_digest(folder: str | Path) -> str:
    """Return 32 hexadecimal digits of a model folder's weights, settings and tokenizer."""
    return find_weights(str(folder)).digest


def tokenizer_digest(folder: str | Path) -> str:
    """Return 32 hexadecimal digits of the files that decide how a model folder's tokenizer encodes."""
    return digest_of(file_digests(Path(folder), TOKENIZER_FILES))


def open_once(engine: Callable[[str], T], folder: str | Path) -> T:
    """Return the one engine of this class and folder in the process.

    The first caller loads it, the rest wait.
    """
    key = (engine, str(Path(folder).resolve()))
    with _opening:
        if key not in _opened:
            _opened[key] = engine(str(folder))
        return _opened[key]


def close_models() -> None:
    """Forget every opened model, so that its memory can be used by others; `open_once` loads anew."""
    with _opening:
        _opened.clear()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()


def pick_device(device: str | None) -> "torch.device":
    """Return the device by name, or the first GPU, or the CPU."""
    import torch

    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def batch_tokens(device: "torch.device") -> int:
    """Return how many padded tokens one forward pass takes on this device."""
    return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS


def token_batches(rows: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of `rows` in batches of at most `batch_tokens` padded tokens, shortest rows first.

    A single row may exceed that. Lengths [3 9 3 4], at most 8 tokens → [0 2] (2 * 3), [3] (4), [1] (9).
    """
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: (len(rows[index]), rows[index])):
        if batch and (len(batch) + 1) * len(rows[index]) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def padded_inputs(
    rows: dict[str, list[list[int]]], pad_token_id: int, device: "torch.device"
) -> dict[str, "torch.Tensor"]:
    """Return a model's inputs by name, each [B, T], padded at the right.

    One of them is the mask that hides the padding.
    """
    import torch

    rows = {**rows, "attention_mask": [[1] * len(ids) for ids in rows["input_ids"]]}
    width = max(map(len, rows["input_ids"]))
    inputs = {}
    for name, values in rows.items():
        filler = pad_token_id if name == "input_ids" else 0
        inputs[name] = torch.tensor([ids + [filler] * (width - len(ids)) for ids in values], device=device)
    return inputs
