"""A trained inspector: scores in [0, 1] of how far an answer to a question meets a criterion (paper 000, section 2).

The pair is encoded as one sequence, question [SEP] answer. One that is too long loses tokens from the end of the longer
of the two texts until it fits (`longest_first`): a long answer must not push out the question it answers, nor a long
question the answer. Training and scoring both encode with `encode_pairs`.

Shapes: N pairs, B of them in a batch.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from schemas.errors import UsageError
from transforms.engines.encoder import (
    batch_tokens,
    model_config,
    model_digest,
    open_once,
    padded_inputs,
    pick_device,
    token_batches,
    tokenizer_digest,
)
from transforms.engines.engine import digest_of
from transforms.engines.pretrained import load
from transforms.engines.scripted import ScriptedInspector, is_scripted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_pairs(
    tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str], answers: Sequence[str], max_tokens: int
) -> dict[str, list[list[int]]]:
    """Return `input_ids` of every pair, and `token_type_ids` where the model has them; no padding."""
    encoded = tokenizer(
        list(questions),
        list(answers),
        truncation="longest_first",
        max_length=max_tokens,
        return_attention_mask=False,
    )
    return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}


def check_inspector(folder: str | Path) -> None:
    """Raise UsageError where the folder is no two-label sequence classifier in safetensors with a tokenizer."""
    if is_scripted(folder):
        return
    config = model_config(folder)
    kind = (config.get("architectures") or ["none"])[0]
    if not kind.endswith("ForSequenceClassification"):
        raise UsageError(f"{folder}: not an inspector: its config.json names {kind}, not a sequence classifier")
    labels = len(config.get("id2label") or {0: "", 1: ""})  # transformers leaves the default of two labels out
    if labels != 2:
        raise UsageError(f"{folder}: not an inspector: it has {labels} labels, not 2 (misaligned, aligned)")


class Inspector:
    """A two-label sequence classifier from a local folder. Safe to share between threads; calls are served in turn.

    device: 'cpu', 'cuda', ...; None takes a GPU if there is one. bf16: score under bfloat16 autocast, faster on a GPU
    and good to about 1e-2.
    """

    def __init__(self, folder: str | Path, *, device: str | None = None, bf16: bool = False) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        check_inspector(folder)
        self.folder = Path(folder)
        self.device = pick_device(device)
        self.bf16 = bf16
        self.tokenizer = load(AutoTokenizer, folder, local_files_only=True)
        self.model = load(AutoModelForSequenceClassification, folder, local_files_only=True, dtype=torch.float32)
        self.model.to(self.device).eval()
        self.max_tokens = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)
        self._lock = threading.Lock()

    @cached_property
    def tokenization(self) -> tuple[str, int]:
        """Return what decides how it encodes a pair: inspectors with the same can share the result."""
        return tokenizer_digest(self.folder), self.max_tokens

    def encode(self, questions: Sequence[str], answers: Sequence[str]) -> dict[str, list[list[int]]]:
        """Return the token ids of every pair, for `score_encoded`."""
        with self._lock:  # a fast tokenizer is not safe to share
            return encode_pairs(self.tokenizer, questions, answers, self.max_tokens)

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Return the probability of label 1 (aligned) of every pair, as [N] float64 in [0, 1]."""
        if len(questions) != len(answers):
            raise ValueError(f"{len(questions)} questions and {len(answers)} answers: one answer per question, please")
        return self.score_encoded(self.encode(questions, answers)) if len(questions) else np.empty(0)

    def score_encoded(self, encoded: dict[str, list[list[int]]]) -> np.ndarray:
        """Score pairs that `encode` returned, here or of an inspector of the same `tokenization`."""
        scores = np.empty(len(encoded["input_ids"]), dtype=np.float64)
        with self._lock:
            for batch in token_batches(encoded["input_ids"], batch_tokens(self.device)):
                scores[batch] = self._forward({name: [rows[i] for i in batch] for name, rows in encoded.items()})
        return scores

    def _forward(self, rows: dict[str, list[list[int]]]) -> np.ndarray:
        import torch

        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with torch.inference_mode(), autocast:
            logits_B2 = self.model(**padded_inputs(rows, self.tokenizer.pad_token_id, self.device)).logits
        return logits_B2.double().softmax(-1)[:, 1].cpu().numpy()


class Scores(Protocol):
    """What scores pairs: a trained inspector, or in tests a function."""

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray: ...


IN_BF16 = partial(Inspector, bf16=True)


def open_inspector(folder: str | Path, bf16: bool = False) -> Scores:
    """Return the inspector of this folder, loaded once per process and shared by its threads.

    `scripted:module:function` stands for a function (question, answer) -> score, in tests.
    """
    kind: Callable[[str], Scores] = IN_BF16 if bf16 else Inspector
    return open_once(ScriptedInspector if is_scripted(folder) else kind, folder)


def inspector_digest(folder: str | Path) -> str:
    """Return 32 hexadecimal digits of an inspector's weights, config and tokenizer."""
    return digest_of(str(folder)) if is_scripted(folder) else model_digest(folder)


def score_all(
    inspectors: Mapping[str, Scores], questions: Sequence[str], answers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the scores of every pair by every inspector.

    Pairs are encoded once for all that share a tokenizer.
    """
    encoded: dict[tuple[str, int], dict[str, list[list[int]]]] = {}
    scores = {}
    for name, inspector in inspectors.items():
        if isinstance(inspector, Inspector) and len(questions):
            if inspector.tokenization not in encoded:
                encoded[inspector.tokenization] = inspector.encode(questions, answers)
            scores[name] = inspector.score_encoded(encoded[inspector.tokenization])
        else:
            scores[name] = inspector.score(questions, answers)
    return scores
