"""The Lightning Trainer with the defaults of this project and `precision: auto`."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch


def pick_precision() -> str:
    """bf16 where the hardware computes it, fp16 on older GPUs, float32 elsewhere."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if cpu_has_bf16() else "32-true"


def cpu_has_bf16() -> bool:
    """The CPU multiplies bf16 itself (AVX-512 BF16 or AMX); emulating it would be slower than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


class Trainer(L.Trainer):
    """`lightning.Trainer`, with `precision` also "auto".

    Args:
        precision: auto, 32-true, bf16-mixed, 16-mixed, ...; auto takes bf16 where the hardware has it.
        *args: as `lightning.Trainer`.
        **kwargs: as `lightning.Trainer`.
    """

    def __init__(self, *args: Any, precision: str | int = "auto", **kwargs: Any) -> None:
        chosen = pick_precision() if precision == "auto" else precision
        super().__init__(*args, precision=chosen, **kwargs)  # type: ignore[arg-type]
