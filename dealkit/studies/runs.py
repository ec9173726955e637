"""What all studies run on: trainings that are made once and go on where they were cut off, results that resume, sources."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from dealkit.config import RunConfig, as_json
from dealkit.evaluate.benchmark import benchmark, spread_row
from dealkit.evaluate.benchmark import mean_row as mean_of
from dealkit.files import Json, read_json, sha_of, write_json
from dealkit.train.deal import fit


def trained(run: RunConfig, out: Path, init: Path | None = None) -> Json:
    """Train into a folder, go on with a training that was cut off, or read a finished one.

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
    log = fit(run, out, resume=(out / "state.pt").is_file(), init=init)
    made = {**request, "steps": log[-1]["step"], "minutes": log[-1]["minutes"]}
    write_json(file, made)
    (out / "state.pt").unlink()  # 140 MB that nothing needs any more
    return made


def folder_of(run: RunConfig, init: Path | None, out: Path) -> Path:
    """The folder of a training in `out`, named by what it depends on."""
    text = json.dumps([as_json(run), sha_of(init) if init else None], sort_keys=True)
    return Path(out) / hashlib.sha256(text.encode()).hexdigest()[:12]


def scored(checkpoint: Path, files: Sequence[Path], out: Path, *, seeds: int = 3) -> Json:
    """`report.benchmark`, short: per source and over sources mean and spread over seeds, hashes of the click lists, seconds.

    Returns:
        `{"sources": {name: {"images", "objects", "clicks", "mean", "spread"}}, "mean", "spread", "test_s"}`.
    """
    full = benchmark(checkpoint, list(files), out, seeds=seeds)
    sources = {}
    for name, source in full["sources"].items():
        runs = source["runs"]["1/category centre"]
        rows = [{k: v for k, v in r.items() if k not in ("seed", "clicks")} for r in runs]
        counts = {"images": source["images"], "objects": source["objects"], "clicks": [r["clicks"] for r in runs]}
        sources[name] = {**counts, "mean": mean_of(rows), "spread": spread_row(rows)}
    seconds = round(sum(source["predict_s"] for source in full["sources"].values()), 1)
    return {
        "sources": sources,
        "mean": full["mean"]["1/category centre"],
        "spread": full["spread"]["1/category centre"],
        "test_s": seconds,
    }
