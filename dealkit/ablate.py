"""Ablations: a grid of short trainings with one thing changed in each, several seeds, the same number of steps.

A sweep is a folder with one run per config and seed, whatever grids ask for it; each leaves its own `results.json`. What is
finished is not run again, what was cut off goes on from its last checkpoint.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dealkit.config import DataConfig, PromptConfig, RunConfig, TrainConfig, to_dict
from dealkit.data.synthetic import EVAL_SEED
from dealkit.model.deal import DEAL
from dealkit.prompts import read_json
from dealkit.report import Json, evaluate_across_scales, evaluate_on_scenes, row_of
from dealkit.train import fit, load_model, provenance, write_json

CHOICE_SEED = EVAL_SEED + 1
"""Family of scenes that choices are made on: neither trained on nor published as a result."""

Changes = dict[str, dict[str, Any]]

GRIDS: dict[str, dict[str, Changes]] = {
    "components": {
        "full": {},
        "without PE": {"model": {"point_embedding": False}},
        "without HFE": {"model": {"enhancement": False}},
        "without DGQA": {"model": {"fixed_queries": 100}},
        "without PG-CPP": {"prompt": {"cycles": 1}},
        "without box reader": {"model": {"edge_dim": 0}},
        "without denoising": {"loss": {"denoise": 0.0}},
    },
    "strategies": {
        "pgcpp, replace": {},
        "pgcpp, add": {"prompt": {"keep": "add"}},
        "centre, replace": {"prompt": {"strategy": "centre"}},
        "centre, add": {"prompt": {"strategy": "centre", "keep": "add"}},
        "random, replace": {"prompt": {"strategy": "random"}},
        "random, add": {"prompt": {"strategy": "random", "keep": "add"}},
        "pgcpp, no negative clicks": {"prompt": {"negatives": 0.0}},
    },
    "cycles": {
        "2 cycles": {},
        "1 cycle": {"prompt": {"cycles": 1}},
        "3 cycles": {"prompt": {"cycles": 3}},
    },
    "scales": {
        "with": {},
        "without cross-scale queries": {"model": {"cross_scale": False}},
    },
}
"""Cells of each grid and what they change in the base run; the first cell is what the others are compared with."""


def base_run(*, steps: int, size: int, coco: Sequence[str] = ()) -> RunConfig:
    """The run that the cells of a grid change: PG-CPP with two cycles, evaluated four times.

    Args:
        steps: of every training. size: side of training crops and evaluation scenes, pixels.
        coco: COCO files to train on besides procedural scenes.

    >>> base_run(steps=600, size=128).train.evaluate_every
    150
    """
    schedule = TrainConfig(steps=steps, warmup=min(100, steps // 5), evaluate_every=max(steps // 4, 1), checkpoint_every=100)
    data = DataConfig(coco=tuple(coco), size=size, sets_per_image=1)
    return RunConfig(data=data, train=schedule, prompt=PromptConfig(cycles=2))


def changed(base: RunConfig, changes: Changes, seed: int) -> RunConfig:
    """The base run with a cell's changes and a seed of its own.

    >>> changed(RunConfig(), {"prompt": {"cycles": 3}}, 2).prompt.cycles
    3
    """
    parts = {part: replace(getattr(base, part), **values) for part, values in changes.items()}
    run = replace(base, **parts)
    return replace(run, train=replace(run.train, seed=seed))


def as_json(run: RunConfig) -> Json:
    """A config as a JSON file gives it back: tuples are lists."""
    return json.loads(json.dumps(to_dict(run)))


def run_cell(run: RunConfig, out: Path, scenes: int, *, scales: bool = False) -> Json:
    """Train and evaluate one cell, or read what it left: `{"config", "metrics", "curve", "minutes"}`.

    `curve` holds the AP50 on at most 60 scenes every `evaluate_every` steps. With `scales` the metrics are those of
    `evaluate_across_scales`.

    Raises:
        ValueError: `out` holds the results of another config.
    """
    file, config = out / "results.json", as_json(run)
    if file.is_file():
        results = read_json(file)
        if results["config"] != config:
            raise ValueError(f"{file}: made with another config; choose another folder")
        return results

    def validate(model: DEAL) -> dict[str, float]:
        return {"val_ap50": evaluate_on_scenes(model, min(scenes, 60), run.data.size, CHOICE_SEED)["all"]["ap50"]}

    log = fit(run, out, resume=(out / "state.pt").is_file(), validate=validate)
    model = load_model(out / "model.safetensors")
    if scales:
        row = evaluate_across_scales(model, scenes, CHOICE_SEED)
    else:
        row = row_of(evaluate_on_scenes(model, scenes, run.data.size, CHOICE_SEED))
    curve = [{"step": line["step"], "ap50": line["val_ap50"]} for line in log if "val_ap50" in line]
    minutes = max(line["minutes"] for line in log)
    results = {"config": config, "metrics": row, "curve": curve, "minutes": minutes}
    write_json(file, results)
    (out / "state.pt").unlink()  # 140 MB that nothing needs any more
    return results


def sweep(base: RunConfig, grid: str, out: Path, *, seeds: int = 3, scenes: int = 200, results: Path | None = None) -> Json:
    """Run every cell of a grid with seeds 0 to `seeds` - 1; seed by seed, so that an early stop leaves whole comparisons.

    Args:
        base: the run that cells change. grid: a key of `GRIDS`. out: folder of the runs.
        results: JSON to write after every cell, besides the cells' own.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid: expected one of {', '.join(GRIDS)}, got {grid!r}")
    cells, rows = GRIDS[grid], []
    todo = [(seed, name) for seed in range(seeds) for name in cells]
    for seed, name in tqdm(todo, desc=f"ablation of {grid}", unit="run"):
        run = changed(base, cells[name], seed)
        digest = hashlib.sha256(json.dumps(as_json(run), sort_keys=True).encode()).hexdigest()[:12]
        rows.append({"cell": name, "seed": seed, **run_cell(run, Path(out) / digest, scenes, scales=grid == "scales")})
        summary = {"grid": grid, "scenes": scenes, "base": as_json(base), "rows": rows, "made_by": provenance()}
        if results is not None:
            write_json(results, summary)
    return summary
