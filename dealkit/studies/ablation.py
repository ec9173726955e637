"""Which parts of the method help? A grid of short trainings with one thing changed in each, several seeds, the same steps.

Every cell and seed has a folder of its own, named by its config, so that grids share what they have in common. Finished
trainings are read; a training that was cut off goes on from its last checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dealkit.config import DataConfig, PromptConfig, RunConfig, TrainConfig, as_json
from dealkit.data.scenes.scene import CHOICE_SEED
from dealkit.evaluate.benchmark import SCALE_BINS, evaluate_across_scales, evaluate_on_scenes, row_of
from dealkit.files import Json, Results
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL
from dealkit.studies.runs import folder_of, trained
from dealkit.train.loop import read_log

Changes = dict[str, dict[str, Any]]

GRIDS: dict[str, dict[str, Changes]] = {
    "components": {
        "full": {},
        "without PE": {"model": {"point_embedding": False}},
        "without HFE": {"model": {"enhancement": False}},
        "without DGQA": {"model": {"fixed_queries": 100}},
        "without PG-CPP": {"prompt": {"cycles": 1}},
    },
    "additions": {
        "full": {},
        "without box reader": {"model": {"edge_dim": 0}},
        "one query per click": {"model": {"click_sizes": (1.0,)}},
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
"""Cells of each grid and what they change in the base run; the first cell is what the others are compared with. `components` are
the paper's, `additions` ours."""


def ablation_run(*, steps: int, size: int, coco: Sequence[str] = ()) -> RunConfig:
    """The run that the cells of a grid change: PG-CPP with two cycles, evaluated four times.

    Args:
        steps: of every training. size: side of training crops and evaluation scenes, pixels.
        coco: COCO files to train on besides procedural scenes.

    >>> ablation_run(steps=600, size=128).train.evaluate_every
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


def start_of(base: RunConfig, seed: int, steps: int) -> RunConfig:
    """The training with one cycle that the cells of a seed go on from, on data of its own.

    >>> start_of(RunConfig(), 2, 800).train.seed
    1002
    """
    run = changed(base, {"prompt": {"cycles": 1}}, 1000 + seed)
    return replace(run, train=replace(run.train, steps=steps))


def rows_of_cell(run: RunConfig, folder: Path, scenes: int, *, scales: bool = False, init: Path | None = None) -> list[Json]:
    """Train a cell, or read its training, and score it: a row per evaluation.

    Args:
        folder: of the training. scenes: held-out scenes that score the finished model.
        scales: score by size of object (`evaluate_across_scales`). init: checkpoint that the weights start from.

    Returns:
        rows with `step` and `val_ap50` (AP50 on at most 60 scenes); the last also has `minutes` and the numbers of `row_of`.

    Raises:
        ValueError: `folder` holds a training of another config.
    """

    def validate(model: DEAL) -> dict[str, float]:
        return {"val_ap50": evaluate_on_scenes(model, min(scenes, 60), run.data.size, CHOICE_SEED)["all"]["ap50"]}

    minutes = trained(run, folder, init, validate=validate)["minutes"]
    rows = [{"step": line["step"], "val_ap50": line["val_ap50"]} for line in read_log(folder) if "val_ap50" in line]
    model = load_model(folder / "model.safetensors")
    if scales:
        scored = evaluate_across_scales(model, scenes, CHOICE_SEED)
        scored = {name: scored[name] for name in ("ap50", "hit", *SCALE_BINS)}
    else:
        scored = row_of(evaluate_on_scenes(model, scenes, run.data.size, CHOICE_SEED))
    return [*rows[:-1], rows[-1] | {"minutes": minutes} | scored]


def ablation_results(
    base: RunConfig,
    grid: str,
    folder: Path,
    out: Path | None = None,
    *,
    seeds: int = 3,
    scenes: int = 200,
    start_steps: int = 0,
) -> Results:
    """Every cell of a grid with seeds 0 to `seeds` - 1; seed by seed, so that an early stop leaves whole comparisons.

    Args:
        base: the run that cells change. grid: a key of `GRIDS`. folder: of the trainings.
        out: JSON of all rows, see `rows_of_cell`; the cells that it already holds are not run again.
        start_steps: if not 0, the cells of a seed go on from one training of so many steps (`start_of`). Choice: for what
            changes only the prompts of training, which says little before a model finds anything; and cells that start alike
            differ by less chance.

    Raises:
        ValueError: no such grid.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid: expected one of {', '.join(GRIDS)}, got {grid!r}")
    request = {"grid": grid, "scenes": scenes, "start_steps": start_steps, "base": as_json(base)}
    results = Results(out, request)
    for key in results.todo([{"cell": cell, "seed": seed} for seed in range(seeds) for cell in GRIDS[grid]], "cells"):
        run, init = changed(base, GRIDS[grid][key["cell"]], key["seed"]), None
        if start_steps:
            start = start_of(base, key["seed"], start_steps)
            init = folder_of(start, None, folder) / "model.safetensors"
            trained(start, init.parent)
        results.add(key, *rows_of_cell(run, folder_of(run, init, folder), scenes, scales=grid == "scales", init=init))
    return results
