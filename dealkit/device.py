"""Where the model runs, and in which precision."""

from contextlib import AbstractContextManager

import torch


def bf16_is_faster(device: str) -> bool:
    """Whether this machine has bfloat16 matrix instructions; asked of the hardware, not assumed."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, wanted: bool = True) -> AbstractContextManager:
    """bfloat16 autocast where it is wanted and faster, else a context that does nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and bf16_is_faster(device.type))


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
