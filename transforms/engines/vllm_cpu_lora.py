"""LoRA in vLLM's CPU build: two matrix products for all adapters, where vLLM 0.32 copies their weights for each token.

That copy makes a small model several times as slow as without adapters (docs/decisions.md), and gives a request without
an adapter, beside others, the weights of the last one. Used in the host process alone.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class CpuLora(PunicaWrapperCPU):
    """Every token goes through all adapters' A, keeps what its own gave, and goes on through all adapters' B."""

    def update_metadata(self, mapping: Any, lora_index_to_id: list[int | None], *args: Any, **kwargs: Any) -> None:
        super().update_metadata(mapping, lora_index_to_id, *args, **kwargs)
        slots = torch.arange(len(lora_index_to_id))
        self._is_own_TS1 = (self.token_lora_indices[:, None] == slots)[:, :, None]  # nowhere where there is none: -1

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
        """Add to `y` [..., out], slice by slice; A is [slots, 1, rank, in] and B [slots, 1, out, rank]."""
        y_TO, x_TI = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            slots, _, rank, _ = a.shape
            low_TSR = (x_TI @ a.flatten(0, 2).T).view(-1, slots, rank) * self._is_own_TS1 * scale
            y_TO[:, start : start + width] += low_TSR.flatten(1) @ b[:, 0].transpose(1, 2).flatten(0, 1)
            start += width
