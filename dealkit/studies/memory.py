"""How much memory has this process had? Without PyTorch, whose own memory would count."""

import sys
from pathlib import Path


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
