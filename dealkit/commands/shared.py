"""What several commands take."""

import glob
from pathlib import Path

import tyro

from dealkit.config import PROJECT_ROOT

Flat = tyro.conf.OmitArgPrefixes
NANO = PROJECT_ROOT / "data" / "checkpoints" / "nano.safetensors"


def find_files(patterns: list[str], option: str = "--coco") -> list[Path]:
    """Files that match the patterns, each pattern's sorted; an error names the option and patterns that match nothing."""
    files = [Path(f) for pattern in patterns for f in sorted(glob.glob(pattern))]
    if not files:
        raise ValueError(f"{option}: no file matches {', '.join(patterns)}")
    return files
