"""Where the model runs, and in which precision."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path

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


def peak_gib() -> float:
    """The most memory that this process has had so far, GiB.

    Raises:
        ValueError: a system that does not tell.
    """
    try:
        import resource
    except ImportError:
        raise ValueError("the memory of a process is told by Linux and macOS only") from None
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where `getrusage` tells the most of the process that started this one, if that had more
        return int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
