"""Ablations: a grid of short trainings with one thing changed in each, several seeds, the same number of steps.

A sweep is a folder with one run per config and seed, whatever grids ask for it; each leaves its own `results.json`. What is
finished is not run again, there or in the JSON of the whole grid; what was cut off goes on from its last checkpoint.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dealkit.config import DataConfig, PromptConfig, RunConfig, TrainConfig, as_json
from dealkit.data.scenes.scene import CHOICE_SEED
from dealkit.evaluate.benchmark import evaluate_across_scales, evaluate_on_scenes, row_of
from dealkit.files import Json, provenance, read_json, write_json
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL
from dealkit.train.deal import fit

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


def run_cell(run: RunConfig, out: Path, scenes: int, *, scales: bool = False, init: Path | None = None) -> Json:
    """Train and evaluate one cell, or read what it left: `{"config", "metrics", "curve", "minutes", "commit"}`.

    `curve` holds the AP50 on at most 60 scenes every `evaluate_every` steps. With `scales` the metrics are those of
    `evaluate_across_scales`. `init` is the checkpoint that the weights start from.

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

    resume = (out / "state.pt").is_file()
    log = fit(run, out, resume=resume, init=None if resume else init, validate=validate)
    model = load_model(out / "model.safetensors")
    if scales:
        row = evaluate_across_scales(model, scenes, CHOICE_SEED)
    else:
        row = row_of(evaluate_on_scenes(model, scenes, run.data.size, CHOICE_SEED))
    curve = [{"step": line["step"], "ap50": line["val_ap50"]} for line in log if "val_ap50" in line]
    minutes = max(line["minutes"] for line in log)
    results = {"config": config, "metrics": row, "curve": curve, "minutes": minutes, "commit": provenance()["commit"]}
    write_json(file, results)
    (out / "state.pt").unlink()  # 140 MB that nothing needs any more
    return results


def start_of(base: RunConfig, seed: int, steps: int) -> RunConfig:
    """The training with one cycle that the cells of a seed go on from, on data of its own.

    >>> start_of(RunConfig(), 2, 800).train.seed
    1002
    """
    run = changed(base, {"prompt": {"cycles": 1}}, 1000 + seed)
    return replace(run, train=replace(run.train, steps=steps))


def run_grid(
    base: RunConfig,
    grid: str,
    out: Path,
    *,
    seeds: int = 3,
    scenes: int = 200,
    start_steps: int = 0,
    results: Path | None = None,
) -> Json:
    """Run every cell of a grid with seeds 0 to `seeds` - 1; seed by seed, so that an early stop leaves whole comparisons.

    Args:
        base: the run that cells change. grid: a key of `GRIDS`. out: folder of the runs.
        start_steps: if not 0, the cells of a seed go on from one training of so many steps (`start_of`). Choice: for what
            changes only the prompts of training, which says little before a model finds anything; and cells that start alike
            differ by less chance.
        results: JSON of all cells, written after each; the cells that it already holds are not run again.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid: expected one of {', '.join(GRIDS)}, got {grid!r}")
    cells, rows = GRIDS[grid], []
    summary = {"grid": grid, "scenes": scenes, "start_steps": start_steps, "base": as_json(base), "made_by": provenance()}
    known: dict[tuple[str, int], Json] = {}
    if results is not None and results.is_file():
        old = read_json(results)
        same = all(old.get(key, 0) == summary[key] for key in ("grid", "scenes", "start_steps"))
        known = {(row["cell"], row["seed"]): row for row in old["rows"]} if same else {}
    todo = [(seed, name) for seed in range(seeds) for name in cells]
    for seed, name in tqdm(todo, desc=f"ablation of {grid}", unit="run"):
        run, row = changed(base, cells[name], seed), known.get((name, seed))
        if row is None or row["config"] != as_json(run):
            init, parts = None, [as_json(run)]
            if start_steps:
                start = start_of(base, seed, start_steps)
                parts.append(as_json(start))
                folder = Path(out) / digest([as_json(start)])
                run_cell(start, folder, scenes)
                init = folder / "model.safetensors"
            row = run_cell(run, Path(out) / digest(parts), scenes, scales=grid == "scales", init=init)
        rows.append({**row, "cell": name, "seed": seed})
        if results is not None:
            write_json(results, {**summary, "rows": rows})
    return {**summary, "rows": rows}


def digest(configs: list[Json]) -> str:
    """Name of a run's folder: of its config, and of the one it goes on from."""
    text = json.dumps(configs[0] if len(configs) == 1 else configs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
