"""Which factor costs recall when it alone is changed? Procedural scenes in which one factor is set at a time; two kinds that
differ by one step of one attribute; objects of all sizes.

Scene i is the same at every level of a factor but for what the level sets, so levels are paired.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dealkit.clicks import make_clicks, offset_clicks
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import EVAL_SEED, write_coco
from dealkit.evaluate.benchmark import SCALE_BINS, evaluate_across_scales
from dealkit.evaluate.errors import confusion_matrix, find_errors
from dealkit.evaluate.factors import cases, found_row
from dealkit.files import Json, Results, sha_of
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL
from dealkit.predict.predictor import predict_coco

BASE: dict[str, Any] = {
    "num_objects": 24,
    "num_categories": 1,
    "object_size": 16.0,
    "contrast": 0.4,
    "blur": 0.45,
    "clutter": 0.4,
}
"""Controls of the scene that the factors depart from, one at a time: 24 objects of one kind, 16 px and well visible."""


EXPERIMENTS: dict[str, tuple[str, tuple[float, ...]]] = {
    "size": ("object_size", (4.0, 6.0, 10.0, 16.0, 28.0)),
    "contrast": ("contrast", (0.06, 0.12, 0.2, 0.4, 0.6)),
    "nearest": ("spacing", (0.8, 1.0, 1.25, 1.6, 2.4)),
    "blur": ("blur", (0.25, 0.8, 1.5, 2.5, 4.0)),
    "clutter": ("clutter", (0.0, 0.3, 0.6, 1.0)),
    "truncated": ("cut", (-2.0, 0.0, 0.25, 0.5)),
    "instances": ("num_objects", (2, 6, 24, 80)),
    "kinds": ("num_categories", (1, 2, 4, 6)),
    "click_offset": ("click", (0.0, 0.25, 0.5, 0.75, 0.95)),
    "size_step": ("size_jitter", (0.0, 0.15, 0.3, 0.5)),
    "colour_step": ("colour_jitter", (0.0, 0.1, 0.2, 0.35)),
}
"""Factor of `dealkit.evaluate.factors.FACTORS` -> field of `SceneControls` that is set, and its levels from one end to the other;
`click` is the place of the click (`offset_clicks`). Distance to the click cannot be set: the scene makes it."""

STEPS: dict[str, tuple[float, ...]] = {
    "hue": (0.0, 0.03, 0.08, 0.2, 0.5),
    "lightness": (0.0, 0.05, 0.12, 0.25, 0.5),
    "size": (1.0, 1.15, 1.4, 2.0, 3.0),
    "aspect": (1.0, 1.3, 1.8, 2.6, 4.0),
    "angle": (0.0, 10.0, 25.0, 45.0, 90.0),
    "pattern": (0.0, 0.08, 0.2, 0.35, 0.5),
}
"""Attribute of `dealkit.data.scenes.plan.TWINS` -> steps between the two kinds; at the first they are the same."""


def controls_at(factor: str, level: float) -> dict[str, Any]:
    """Fields of `SceneControls` for one level.

    >>> controls_at("size", 6)["object_size"], controls_at("size", 6)["contrast"]
    (6, 0.4)
    """
    controls = BASE | ({} if factor == "click_offset" else {EXPERIMENTS[factor][0]: level})
    return controls | {"object_size": None, "sizes": (16.0, 16.0)} if factor == "size_step" else controls


def whole_objects(coco: Json, margin: float = 1.0) -> Json:
    """The file without its objects at the border of their image, unless a kind has no others: what a click may be drawn from."""
    sizes = {row["id"]: (row["width"], row["height"]) for row in coco["images"]}

    def whole(row: Json) -> bool:
        (x, y, w, h), (width, height) = row["bbox"], sizes[row["image_id"]]
        return min(x, y) >= margin and x + w <= width - margin and y + h <= height - margin

    good = {(row["image_id"], row["category_id"]) for row in coco["annotations"] if whole(row)}
    kept = [row for row in coco["annotations"] if whole(row) or (row["image_id"], row["category_id"]) not in good]
    return {**coco, "annotations": kept}


def flat_row(row: Json) -> Json:
    """The row with its `interval` in two columns.

    >>> flat_row({"shown": 0.5, "interval": [0.4, 0.7]})
    {'shown': 0.5, 'interval_low': 0.4, 'interval_high': 0.7}
    """
    low, high = row["interval"] or (None, None)
    return {k: v for k, v in row.items() if k != "interval"} | {"interval_low": low, "interval_high": high}


def run_level(model: DEAL, factor: str, level: float, *, scenes: int, size: int = 256, seed: int = EVAL_SEED) -> Json:
    """Scenes of one level, a click on one whole object of every kind, and how the other objects are found.

    Returns:
        `measured` (median of the factor as it is measured in any data set), and the numbers of
        `dealkit.evaluate.factors.found_row`. For `truncated` over the objects at the border alone where there are any.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder), scenes, size=size, seed=seed, progress=False, **controls_at(factor, level))
        truth = read_coco(file)
        clicks = make_clicks(whole_objects(truth), setting="1/category", seed=0)
        if factor == "click_offset":
            clicks = offset_clicks(whole_objects(truth), level, seed=0)
        found = predict_coco(model, CocoFolder(file, source=factor), [clicks])[0]
        objects, false = cases(file, found, clicks, source="scenes")
    total = float(objects["weight"].sum())
    if factor == "truncated" and objects["truncated"].any():
        chosen = objects["truncated"] == 1
        objects = {key: column[chosen] for key, column in objects.items()}
    measured = objects[factor].astype(np.float64)
    measured = measured[np.isfinite(measured)]
    middle = float(np.median(measured)) if len(measured) else None
    return {"measured": middle, **flat_row(found_row(objects, false, total))}


def run_step(model: DEAL, attribute: str, step: float, *, scenes: int, size: int = 256, seed: int = EVAL_SEED) -> Json:
    """Scenes with two kinds that differ by one step of one attribute, a click on one object of each.

    Returns:
        The numbers of `found_row`, and `confused`: of the shown detections that lie on an object of either kind, the
        share on the kind that was not clicked; without any difference it is a half.
    """
    controls = BASE | {"num_objects": 24, "twin": (attribute, step)} | ({"grey": False} if attribute == "hue" else {})
    if attribute == "size":
        controls |= {"object_size": None, "sizes": (12.0, 12.0)}
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder), scenes, size=size, seed=seed, progress=False, **controls)
        clicks = make_clicks(file, setting="1/category", seed=0)
        found = predict_coco(model, CocoFolder(file, source=attribute), [clicks])[0]
        errors = find_errors(file, found, clicks, ignore_clicked=True)
        matrix = confusion_matrix(errors)[:, :-1]
        objects, false = cases(file, found, clicks, source="scenes", errors=errors)
    own, every = float(np.trace(matrix)), float(matrix.sum())
    confused = (every - own) / every if every else None
    return {"confused": confused, **flat_row(found_row(objects, false))}


def controlled_scenes(
    checkpoint: Path,
    out: Path | None,
    *,
    scenes: int = 40,
    large: int = 40,
    factors: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
) -> Results:
    """All experiments of a checkpoint; goes on where it was stopped.

    Args:
        checkpoint: model weights. out: JSON to write.
        scenes: of each level and step. large: 512 px scenes of the evaluation across sizes; 0 leaves it out.
        factors: of `EXPERIMENTS`; None all. attributes: of `STEPS`; None all.

    Returns:
        Rows by their `part`. `level`: of a factor, see `run_level`. `step`: of an attribute, see `run_step`. `size`: AP50 of a
        size in pixels; the row of size `all` has the hit rate, too.

    Raises:
        ValueError: an unknown factor or attribute; says which there are.
    """
    factors, attributes = (EXPERIMENTS if factors is None else factors), (STEPS if attributes is None else attributes)
    for name, known in [*((f, EXPERIMENTS) for f in factors), *((a, STEPS) for a in attributes)]:
        if name not in known:
            raise ValueError(f"controlled: expected some of {', '.join(known)}, got {name!r}")
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "scenes": scenes, "large": large}
    results = Results(out, request | {"base": BASE, "seed": EVAL_SEED})
    keys: list[Json] = [{"part": "level", "factor": f, "level": level} for f in factors for level in EXPERIMENTS[f][1]]
    keys += [{"part": "step", "attribute": a, "step": step} for a in attributes for step in STEPS[a]]
    keys += [{"part": "size"}] if large else []
    model: Any = None
    for key in results.todo(keys, "levels"):
        model = model or load_model(checkpoint)
        if key["part"] == "level":
            results.add(key, run_level(model, key["factor"], key["level"], scenes=scenes))
        elif key["part"] == "step":
            results.add(key, run_step(model, key["attribute"], key["step"], scenes=scenes))
        else:
            made = evaluate_across_scales(model, large)
            sizes = [{"size": name, "ap50": made[name]} for name in SCALE_BINS]
            results.add(key, {"size": "all", "ap50": made["ap50"], "hit": made["hit"]}, *sizes)
    return results
