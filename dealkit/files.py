"""Files: where the project lies, JSON that is read with clear errors and written in one move, hashes, what made a result."""

import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""Folder that holds `notebooks/`, `data/` and `figures/`; every relative path of a notebook starts here."""

Json = dict[str, Any]
"""A JSON object."""


def read_json(source: Any) -> Any:
    """The content of a JSON file; anything that is not a path is returned as it is.

    Raises:
        ValueError: the file is not JSON; names it.
    """
    if not isinstance(source, str | Path):
        return source
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source}: not a JSON file: {error}") from None


def write_json(path: Path, values: Any) -> None:
    """JSON in one move: a kill leaves the old or the new file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(f"{path}.tmp")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(temporary, path)


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file under another name, then move it to `path`: a kill leaves the old file, the new one, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    write(temporary)
    os.replace(temporary, path)


def find_files(patterns: list[str], option: str = "--coco") -> list[Path]:
    """Files that match the patterns, each pattern's sorted; an error names the option and patterns that match nothing."""
    files = [Path(f) for pattern in patterns for f in sorted(glob.glob(pattern))]
    if not files:
        raise ValueError(f"{option}: no file matches {', '.join(patterns)}")
    return files


WEIGHTS_PART = "-?????-of-?????"
"""What their names have before the dot."""


def files_of(path: Path) -> list[Path]:
    """The file at `path`, or the parts that stand for it, in order; empty if there is neither."""
    path = Path(path)
    return [path] if path.is_file() else sorted(path.parent.glob(f"{path.stem}{WEIGHTS_PART}{path.suffix}"))


def sha_of(file: Path) -> str:
    """First 12 hex digits of the sha256 of a file, or of the parts that stand for it (`dealkit.files.files_of`)."""
    content = hashlib.sha256()
    for part in files_of(file) or [Path(file)]:
        content.update(part.read_bytes())
    return content.hexdigest()[:12]


def short_path(path: str | Path) -> str:
    """The last three parts of a path: what a published file says of data, wherever it lies.

    >>> short_path("/home/me/data/cells/train.json")
    'data/cells/train.json'
    """
    return "/".join(Path(path).parts[-3:])


def provenance() -> dict[str, str]:
    """What made a result: git commit, Python and package versions, machine type."""
    commit = ""
    if shutil.which("git"):
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True).stdout.strip()
    import torch  # here, so that the command line starts without it

    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
    }
