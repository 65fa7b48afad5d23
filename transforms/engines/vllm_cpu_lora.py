"""LoRA in vLLM's CPU build: two matrix products for all adapters, where vLLM 0.32 copies their weights for each token.

That copy makes a small model several times as slow as without adapters (docs/decisions.md), and gives a request without
an adapter, beside others, the weights of the last one. It is used where all of vLLM runs in the host process, as it
does on a CPU unless arguments or VLLM_ENABLE_V1_MULTIPROCESSING ask for more: vLLM's own workers know nothing of it.
Adapters of embeddings are left to vLLM.

Shapes: T tokens of a step, N of them sampled from, S slots with an adapter in each, R its rank, I columns in, O columns
out, V words of the vocabulary.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class CpuLora(PunicaWrapperCPU):
    """Every row goes through all adapters' A, keeps what its own gave, and goes on through all adapters' B.

    A is [S, 1, R, I] and B [S, 1, O, R]; a row without an adapter has slot -1.
    """

    def update_metadata(self, mapping: Any, lora_index_to_id: list[int | None], *args: Any, **kwargs: Any) -> None:
        """Note which slot is whose: once a step, before all layers."""
        super().update_metadata(mapping, lora_index_to_id, *args, **kwargs)
        slots = torch.arange(len(lora_index_to_id))
        self._is_tokens_TS1 = (self.token_lora_indices[:, None] == slots)[:, :, None]
        self._is_sampled_NS1 = (self.sampler_indices[:, None] == slots)[:, :, None]

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add to `y` [..., out] for every token, slice by slice of its columns."""
        y_TO, x_TI, start = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), 0
        for a_S1RI, b_S1OR, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_lora(y_TO[:, start : start + width], x_TI, a_S1RI, b_S1OR, self._is_tokens_TS1, scale)
            start += width

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add to `y` [..., vocabulary] for the tokens that are sampled from."""
        y_NV, x_NI = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        add_lora(y_NV, x_NI, lora_a_stacked, lora_b_stacked, self._is_sampled_NS1, scale)


def add_lora(
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    a_S1RI: torch.Tensor,
    b_S1OR: torch.Tensor,
    is_own_TS1: torch.Tensor,
    scale: float,
) -> None:
    """Add to the rows of `y` what their own adapters make of the rows of `x`."""
    # slots 0 and 1 of rank 1, A [1, 10], B [2, 3], scale 1; x [4, 5], the first row's slot 0, the second's 1
    # → low [[4, 40], [5, 50]], of which their own [[4, 0], [0, 50]] → change [4 * 2, 50 * 3]
    slots, _, rank, _ = a_S1RI.shape
    down = a_S1RI.flatten(0, 2).to(x_TI.dtype)  # [S * R, I]
    low_TSR = (x_TI @ down.T).view(-1, slots, rank)
    low_TSR = torch.where(is_own_TS1, low_TSR * scale, 0.0).to(y_TO.dtype)
    up = b_S1OR[:, 0].to(y_TO.dtype).transpose(1, 2).flatten(0, 1)  # [S * R, O]
    change_TO = low_TSR.flatten(1) @ up
    width = min(y_TO.shape[1], change_TO.shape[1])  # the two may be padded differently
    y_TO[:, :width] += change_TO[:, :width]
