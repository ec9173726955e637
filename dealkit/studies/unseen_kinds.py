"""What makes a click find kinds that were never trained on? Each short training changes one part of the recipe, several seeds.

All trainings draw the same number of crops. They are scored on the validation images of the sources that they were trained on, by
which parts are chosen, and on sources that nothing was trained on, which are only shown.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dealkit.clicks import make_clicks
from dealkit.config import MODELS, DataConfig, RunConfig, TrainConfig, as_json
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import first_images
from dealkit.evaluate.benchmark import row_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import Results, sha_of
from dealkit.model.checkpoint import load_model
from dealkit.predict.predictor import predict_coco
from dealkit.studies.ablation import Changes, changed
from dealkit.studies.runs import folder_of, trained

PARTS: dict[str, Changes] = {
    "full": {},
    "random start": {"model": {"pretrained": False, "frozen": False}},
    "without similarity": {"model": {"similarity": False}},
    "without drawn boxes": {"data": {"drawn": 0.0}},
    "without mosaics": {"data": {"mosaic": 0.0}},
    "without distractors": {"data": {"distractors": 0.0}},
    "without other images": {"data": {"partners": 0.0}},
    "without absent kinds": {"data": {"absent": 0.0, "background": 0.0}},
    "with pasted kinds": {"data": {"pasted_kinds": 0.35}},
    "without rivals": {"loss": {"rival": 1.0}},
    "without PE": {"model": {"point_embedding": False}},
    "without HFE": {"model": {"enhancement": False}},
    "without DGQA": {"model": {"fixed_queries": 100}},
    "with PG-CPP": {"prompt": {"cycles": 2}},
}
"""Cells and what they change in the run; the first is what the others are compared with. The last four are the paper's parts."""

PROMPTS: dict[str, Changes] = {
    "PG-CPP": {"prompt": {"cycles": 2}},
    "three cycles": {"prompt": {"cycles": 3}},
    "clicks added": {"prompt": {"cycles": 2, "keep": "add"}},
    "any object, centre": {"prompt": {"cycles": 2, "strategy": "centre"}},
    "any object, anywhere": {"prompt": {"cycles": 2, "strategy": "random"}},
    "without negative clicks": {"prompt": {"cycles": 2, "negatives": 0.0}},
}
"""Cells of how the prompt of a later cycle is chosen; the first is the paper's way, with our negative clicks."""

GRIDS = {"kinds": PARTS, "pgcpp": PROMPTS}
"""By the names of the studies of notebook 04."""

NUMBERS = ("ap50", "ap75", "ap25_ignored", "ap50_ignored", "ap75_ignored", "hit")
"""What a row keeps of those of `row_of`."""


def recipe(files: Sequence[Path], *, steps: int, size: int = 128) -> RunConfig:
    """The run that the cells change: `nano` from ImageNet weights on these annotation files and procedural scenes."""
    data = DataConfig(coco=tuple(map(str, files)), size=size)
    schedule = TrainConfig(steps=steps, batch_size=12, warmup=min(200, steps // 5), ema_decay=0.995, checkpoint_every=100)
    return RunConfig(model=MODELS["nano"], data=data, train=schedule)


def part_results(
    train: Sequence[Path],
    groups: dict[str, Sequence[Path]],
    folder: Path,
    out: Path | None = None,
    *,
    cells: dict[str, Changes] | None = None,
    images: dict[str, int],
    steps: int,
    size: int = 128,
    seeds: int = 3,
    numbers: Sequence[int] = (),
) -> Results:
    """A row per cell, seed, group and source: `NUMBERS` for a click and for a box, one per category, at the centre.

    Args:
        train: annotation files to train on. groups: name -> files to score on, such as `seen` and `unseen`.
        folder: of the trainings. out: JSON of all rows; what it holds is not run again.
        cells: of one of `GRIDS`; None: `PARTS`.
        images: of every file of a group, at most.
        numbers: further cells, trained on so many of `train`, evenly chosen in their order.
    """
    base = recipe(train, steps=steps, size=size)
    runs = {name: changed(base, changes, 0) for name, changes in (cells or PARTS).items()}
    for n in numbers:
        chosen = tuple(str(train[i * len(train) // n]) for i in range(n))
        runs[f"{n} sources"] = replace(base, data=replace(base.data, coco=chosen))
    request = {"base": as_json(replace(base, data=replace(base.data, coco=()))), "images": images}
    request |= {"files": {name: [sha_of(file) for file in files] for name, files in {"train": train, **groups}.items()}}
    results = Results(out, request)
    for key in results.todo([{"cell": cell, "seed": seed} for seed in range(seeds) for cell in runs], "cells"):
        run = replace(runs[key["cell"]], train=replace(base.train, seed=key["seed"]))
        place = folder_of(run, None, folder)
        minutes = trained(run, place)["minutes"]
        model, rows = load_model(place / "model.safetensors"), []
        for group, files in groups.items():
            for file in files:
                truth = first_images(read_coco(file), images[group])
                lists = [make_clicks(truth, setting="1/category", seed=0, kind=kind) for kind in ("centre", "box")]
                found = predict_coco(model, CocoFolder(file), lists, together=True)
                for clicks, of_list in zip(lists, found, strict=True):
                    about = {"group": group, "source": file.parent.name, "kind": clicks["kind"], "minutes": minutes}
                    scores = row_of(evaluate(truth, of_list, clicks))
                    rows.append(about | {name: scores[name] and round(scores[name], 4) for name in NUMBERS})
        results.add(key, *rows)
    return results
