"""Which of our additions help? A grid of short trainings with one thing changed in each, several seeds, the same steps.

The paper's components and the parts of the recipe: `unseen_kinds`.

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
    "additions": {
        "full": {},
        "without box reader": {"model": {"edge_dim": 0}},
        "one query per click": {"model": {"click_sizes": (1.0,)}},
        "without denoising": {"loss": {"denoise": 0.0}},
    },
    "scales": {
        "with": {},
        "without cross-scale queries": {"model": {"cross_scale": False}},
    },
}
"""Cells of each grid and what they change in the base run; the first cell is what the others are compared with."""


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


def rows_of_cell(run: RunConfig, folder: Path, scenes: int, *, scales: bool = False) -> list[Json]:
    """Train a cell, or read its training, and score it: a row per evaluation.

    Args:
        folder: of the training. scenes: held-out scenes that score the finished model.
        scales: score by size of object (`evaluate_across_scales`).

    Returns:
        rows with `step` and `val_ap50` (AP50 on at most 60 scenes); the last also has `minutes` and the numbers of `row_of`.

    Raises:
        ValueError: `folder` holds a training of another config.
    """

    def validate(model: DEAL) -> dict[str, float]:
        return {"val_ap50": evaluate_on_scenes(model, min(scenes, 60), run.data.size, CHOICE_SEED)["all"]["ap50"]}

    minutes = trained(run, folder, validate=validate)["minutes"]
    rows = [{"step": line["step"], "val_ap50": line["val_ap50"]} for line in read_log(folder) if "val_ap50" in line]
    model = load_model(folder / "model.safetensors")
    if scales:
        scored = evaluate_across_scales(model, scenes, CHOICE_SEED)
        scored = {name: scored[name] for name in ("ap50", "hit", *SCALE_BINS)}
    else:
        scored = row_of(evaluate_on_scenes(model, scenes, run.data.size, CHOICE_SEED))
    return [*rows[:-1], rows[-1] | {"minutes": minutes} | scored]


def ablation_results(
    base: RunConfig, grid: str, folder: Path, out: Path | None = None, *, seeds: int = 3, scenes: int = 200
) -> Results:
    """Every cell of a grid with seeds 0 to `seeds` - 1; seed by seed, so that an early stop leaves whole comparisons.

    Args:
        base: the run that cells change. grid: a key of `GRIDS`. folder: of the trainings.
        out: JSON of all rows, see `rows_of_cell`; the cells that it already holds are not run again.

    Raises:
        ValueError: no such grid.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid: expected one of {', '.join(GRIDS)}, got {grid!r}")
    request = {"grid": grid, "scenes": scenes, "base": as_json(base)}
    results = Results(out, request)
    for key in results.todo([{"cell": cell, "seed": seed} for seed in range(seeds) for cell in GRIDS[grid]], "cells"):
        run = changed(base, GRIDS[grid][key["cell"]], key["seed"])
        results.add(key, *rows_of_cell(run, folder_of(run, None, folder), scenes, scales=grid == "scales"))
    return results
