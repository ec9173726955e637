"""Trainings of studies: made once, named by what they depend on, gone on with where they were cut off.

Results that resume and the loop over sources: `dealkit.files.Results`.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from dealkit.baselines.methods import train_with
from dealkit.config import DetectorRun, RunConfig, as_json
from dealkit.files import Json, read_json, sha_of, write_json
from dealkit.train.deal import fit


def trained(
    run: RunConfig | DetectorRun, out: Path, init: Path | None = None, *, validate: Callable[..., dict[str, float]] | None = None
) -> Json:
    """Train a DEAL or a detector into a folder, go on with a training that was cut off, or read a finished one.

    Returns:
        `{"config", "init" (hash of the checkpoint started from), "steps", "minutes"}`; the checkpoint is `out/model.safetensors`.

    Raises:
        ValueError: `out` holds a training of another config or start.
    """
    file, request = out / "training.json", {"config": as_json(run), "init": sha_of(init) if init else None}
    if file.is_file():
        made = read_json(file)
        if {key: made[key] for key in request} != request:
            raise ValueError(f"{file}: made with another config or start; choose another folder")
        return made
    train = train_with if isinstance(run, DetectorRun) else fit
    log = train(run, out, resume=(out / "state.pt").is_file(), init=init, validate=validate)
    made = {**request, "steps": log[-1]["step"], "minutes": log[-1]["minutes"]}
    write_json(file, made)
    (out / "state.pt").unlink()  # 140 MB that nothing needs any more
    return made


def folder_of(run: RunConfig | DetectorRun, init: Path | None, out: Path) -> Path:
    """The folder of a training in `out`, named by what it depends on."""
    text = json.dumps([as_json(run), sha_of(init) if init else None], sort_keys=True)
    return Path(out) / hashlib.sha256(text.encode()).hexdigest()[:12]
