"""The pair-ranker of 2023 (llm-blender/pair-ranker) as a judge: which of two answers to a question is the better one.

A DeBERTa-v3 encoder reads question and both answers in one sequence, each part as [CLS] <mark> text [SEP]: at most 128
tokens for the question and 128 for an answer, and tokens that the question leaves over are shared by the answers, so
384 in all (FACTS A and D). A head scores each answer from the states at the question's mark and at its own. The order
of the answers sways it, so both orders are run and averaged.

The published checkpoint holds pickled weights and no tokenizer. Convert it once, offline, with the folder of
microsoft/deberta-v3-large (config and tokenizer; its weights are not needed):

    python -c "from transforms.engines.pair_ranker import convert; convert('pair-ranker', 'deberta-v3-large', 'out')"

Shapes: N pairs of answers, B of them in a batch, T tokens, D dimensions of a state, K outputs of the head.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import UsageError
from transforms.engines.encoder import (
    batch_tokens,
    model_config,
    open_once,
    padded_inputs,
    pick_device,
    token_batches,
)
from transforms.engines.pretrained import load, read_object

# In the order in which the published model's vocabulary was extended; the last one only occurred in its training code.
MARKS = ("<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>")
MARK_IDS = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")
LIMITS = ("source_maxlength", "candidate_maxlength")


def shared_limits(source_tokens: int, limits: tuple[int, int]) -> int:
    """Return the tokens that each answer may have beside a question of `source_tokens`, marks included."""
    source_limit, candidate_limit = limits
    return candidate_limit + (source_limit - source_tokens) // 2


class PairRanker:
    """A pair-ranker from a local folder. Safe to share between threads; calls are served in turn."""

    def __init__(self, folder: str | Path, *, device: str | None = None) -> None:
        from safetensors.torch import load_file
        from torch.nn import Dropout, Linear, ModuleDict, Sequential, Tanh
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        settings = model_config(folder)
        missing = [name for name in (*MARK_IDS, *LIMITS) if not isinstance(settings.get(name), int)]
        if settings.get("model_type") != "deberta-v2" or missing:
            raise UsageError(
                f"{folder}: not a converted pair-ranker: its config.json is for {settings.get('model_type')!r} and "
                f"lacks {', '.join(missing) or 'nothing'}; see transforms.engines.pair_ranker.convert"
            )
        self.folder = Path(folder)
        self.device = pick_device(device)
        self.limits = (settings["source_maxlength"], settings["candidate_maxlength"])
        self.mark_ids = tuple(settings[name] for name in MARK_IDS)
        self.tokenizer = load(AutoTokenizer, folder, local_files_only=True)
        state: dict[str, Any] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            state |= load_file(path)
        encoder = AutoModel.from_config(load(AutoConfig, folder, local_files_only=True))
        width, tasks = encoder.config.hidden_size, len(state.get("head_layer.4.bias", [0]))
        # The positions in the head are the published ones, its two dropouts included: they name its weights.
        layers = (Dropout(0), Linear(2 * width, width), Tanh(), Dropout(0), Linear(width, tasks))
        self.model = ModuleDict({"pretrained_model": encoder, "head_layer": Sequential(*layers)})
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise UsageError(f"{folder}: its weights do not fit a pair-ranker: {error}") from error
        self.model.float().to(self.device).eval()
        self._lock = threading.Lock()

    def compare(self, questions: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """Return how far `a` beats `b`, as [N] float64 logits: the mean of both orders.

        It is positive where `a` is better. `compare(q, b, a)` is exactly `-compare(q, a, b)`, and equal answers give
        exactly 0.
        """
        if not len(questions) == len(a) == len(b):
            raise ValueError(f"{len(questions)} questions, {len(a)} and {len(b)} answers: one of each per row, please")
        with self._lock:
            orders = sorted({*zip(questions, a, b, strict=True), *zip(questions, b, a, strict=True)})
            logits = dict(zip(orders, self._logits(orders), strict=True))
        return np.array(
            [(logits[q, x, y] - logits[q, y, x]) / 2 for q, x, y in zip(questions, a, b, strict=True)], dtype=np.float64
        )

    def _logits(self, rows: list[tuple[str, str, str]]) -> np.ndarray:
        """Return the margin of the first answer over the second in the order given, [N] float64."""
        import torch

        logits = np.empty(len(rows), dtype=np.float64)
        encoded = [self.encode(*row) for row in rows]
        for batch in token_batches([ids for ids, _ in encoded], batch_tokens(self.device)):
            inputs = padded_inputs(
                {"input_ids": [encoded[i][0] for i in batch]}, self.tokenizer.pad_token_id, self.device
            )
            marks_B3 = torch.tensor([encoded[i][1] for i in batch], device=self.device)
            with torch.inference_mode():
                states_BTD = self.model["pretrained_model"](**inputs).last_hidden_state
                rows_B1 = torch.arange(len(batch), device=self.device)[:, None]
                source_BD, first_BD, second_BD = states_BTD[rows_B1, marks_B3].unbind(1)
                head = self.model["head_layer"]
                first_BK = head(torch.cat([source_BD, first_BD], -1))
                second_BK = head(torch.cat([source_BD, second_BD], -1))
            logits[batch] = (first_BK - second_BK).mean(-1).double().cpu().numpy()
        return logits

    def encode(self, question: str, first: str, second: str) -> tuple[list[int], list[int]]:
        """Return token ids of question and answers in one sequence, and the positions of their marks."""
        ids: list[int] = []
        mark_positions: list[int] = []
        limit = self.limits[0]
        for mark, text in zip(self.mark_ids, (question, first, second), strict=True):
            for reserved in (*MARKS, *self.tokenizer.all_special_tokens):
                text = text.replace(reserved, " ")
            part = self.tokenizer(text, add_special_tokens=False)["input_ids"][: limit - 3]
            mark_positions.append(len(ids) + 1)
            ids += [self.tokenizer.cls_token_id, mark, *part, self.tokenizer.sep_token_id]
            if len(mark_positions) == 1:
                limit = shared_limits(len(ids), self.limits)
        return ids, mark_positions


def open_pair_ranker(folder: str | Path) -> PairRanker:
    """Return the pair-ranker of this folder, loaded once per process and shared by its threads."""
    return open_once(PairRanker, folder)


def convert(checkpoint: str | Path, backbone: str | Path, output: str | Path) -> None:
    """Write a published pair-ranker checkpoint as the folder that `PairRanker` reads.

    `checkpoint` holds pytorch_model.bin (read as tensors only, never unpickled code) and the ranker's config.json;
    `backbone` the config.json and the tokenizer of the encoder it was made from. Raises UsageError where one of them
    is not that, or `output` is a link or not an empty folder.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    checkpoint, backbone, output = Path(checkpoint), Path(backbone), Path(output)
    if output.is_symlink() or (output.exists() and not (output.is_dir() and not any(output.iterdir()))):
        raise UsageError(f"{output}: is a link or not an empty folder; choose another output")
    ranker = read_object(checkpoint / "config.json")
    if ranker.get("ranker_type") != "pairranker":
        raise UsageError(f"{checkpoint}/config.json: ranker_type is {ranker.get('ranker_type')!r}, not 'pairranker'")
    tokenizer = load(AutoTokenizer, backbone, local_files_only=True)
    tokenizer.add_tokens(list(MARKS))
    state = torch.load(checkpoint / "pytorch_model.bin", map_location="cpu", weights_only=True)
    # Buffers that older releases of transformers stored and newer ones compute.
    state = {name: tensor.contiguous() for name, tensor in state.items() if not name.endswith("position_ids")}
    rows = len(state["pretrained_model.embeddings.word_embeddings.weight"])
    if rows < len(tokenizer):
        raise UsageError(f"{checkpoint}: {rows} embeddings for {len(tokenizer)} tokens; is {backbone} its backbone?")
    config = read_object(backbone / "config.json") | {"vocab_size": rows}
    config |= {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in zip(MARK_IDS, MARKS, strict=False)}
    config |= {name: ranker.get(name, 128) for name in LIMITS}
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(output)
    save_file(state, output / "model.safetensors")
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
