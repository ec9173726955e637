"""Controlled experiments: procedural scenes in which one factor is set at a time, recall and AP against it; two kinds that differ
by one step; objects of all sizes.

Scene i is the same at every level of a factor but for what the level sets, so levels are paired.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dealkit.clicks import make_clicks, offset_clicks
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import EVAL_SEED, write_coco
from dealkit.evaluate.benchmark import evaluate_across_scales
from dealkit.evaluate.errors import confusion_matrix, find_errors
from dealkit.evaluate.factors import FACTORS, cases, drop, found_row
from dealkit.files import Json, provenance, read_json, sha_of, write_json
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


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A factor, the levels it is set to, and what a level changes in the scene or the click."""

    factor: str
    """Key of `FACTORS`."""
    control: str
    """Field of `SceneControls` that is set to each level; `click` for the place of the click."""
    levels: tuple[float, ...]
    """From one end to the other, in the unit of the control."""
    unit: str
    """What a level is, as an axis says it."""
    without: tuple[str, ...] = ()
    """Controls of `BASE` that this one excludes."""
    also: tuple[tuple[str, Any], ...] = ()
    """Other controls that go with it."""


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(factor="size", control="object_size", levels=(4.0, 6.0, 10.0, 16.0, 28.0), unit="size, px"),
    Experiment(factor="contrast", control="contrast", levels=(0.06, 0.12, 0.2, 0.4, 0.6), unit="contrast of the colours"),
    Experiment(factor="nearest", control="spacing", levels=(0.8, 1.0, 1.25, 1.6, 2.4), unit="distance of neighbours, sizes"),
    Experiment(factor="blur", control="blur", levels=(0.25, 0.8, 1.5, 2.5, 4.0), unit="blur, px"),
    Experiment(factor="clutter", control="clutter", levels=(0.0, 0.3, 0.6, 1.0), unit="strength of the background's texture"),
    Experiment(factor="truncated", control="cut", levels=(-2.0, 0.0, 0.25, 0.5), unit="share of the side outside the image"),
    Experiment(factor="instances", control="num_objects", levels=(2, 6, 24, 80), unit="objects wanted"),
    Experiment(factor="kinds", control="num_categories", levels=(1, 2, 4, 6), unit="kinds wanted"),
    Experiment(factor="click_offset", control="click", levels=(0.0, 0.25, 0.5, 0.75, 0.95), unit="offset, half sides"),
    Experiment(
        factor="size_step",
        control="size_jitter",
        levels=(0.0, 0.15, 0.3, 0.5),
        unit="deviation of log size",
        without=("object_size",),
        also=(("sizes", (16.0, 16.0)),),
    ),
    Experiment(factor="colour_step", control="colour_jitter", levels=(0.0, 0.1, 0.2, 0.35), unit="deviation of colour"),
)
"""One experiment per factor that can be set. Distance to the click cannot: it is what the scene makes it."""

STEPS: dict[str, tuple[float, ...]] = {
    "hue": (0.0, 0.03, 0.08, 0.2, 0.5),
    "lightness": (0.0, 0.05, 0.12, 0.25, 0.5),
    "size": (1.0, 1.15, 1.4, 2.0, 3.0),
    "aspect": (1.0, 1.3, 1.8, 2.6, 4.0),
    "angle": (0.0, 10.0, 25.0, 45.0, 90.0),
    "pattern": (0.0, 0.08, 0.2, 0.35, 0.5),
}
"""Attribute of `dealkit.data.scenes.plan.TWINS` -> steps between the two kinds; at the first they are the same."""


def controls_at(experiment: Experiment, level: float) -> dict[str, Any]:
    """Fields of `SceneControls` for one level.

    >>> controls_at(EXPERIMENTS[0], 6)["object_size"], controls_at(EXPERIMENTS[0], 6)["contrast"]
    (6, 0.4)
    """
    controls = {key: value for key, value in BASE.items() if key not in experiment.without} | dict(experiment.also)
    return controls if experiment.control == "click" else controls | {experiment.control: level}


def whole_objects(coco: Json, margin: float = 1.0) -> Json:
    """The file without its objects at the border of their image, unless a kind has no others: what a click may be drawn from."""
    sizes = {row["id"]: (row["width"], row["height"]) for row in coco["images"]}

    def whole(row: Json) -> bool:
        (x, y, w, h), (width, height) = row["bbox"], sizes[row["image_id"]]
        return min(x, y) >= margin and x + w <= width - margin and y + h <= height - margin

    good = {(row["image_id"], row["category_id"]) for row in coco["annotations"] if whole(row)}
    kept = [row for row in coco["annotations"] if whole(row) or (row["image_id"], row["category_id"]) not in good]
    return {**coco, "annotations": kept}


def run_level(model: DEAL, experiment: Experiment, level: float, *, scenes: int, size: int = 256, seed: int = EVAL_SEED) -> Json:
    """Scenes of one level, a click on one whole object of every kind, and how the other objects are found.

    Returns:
        `level`, `measured` (median of the factor as it is measured in any data set), and the numbers of
        `dealkit.evaluate.factors.found_row`. For `truncated` over the objects at the border alone where there are any.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder), scenes, size=size, seed=seed, progress=False, **controls_at(experiment, level))
        truth = read_json(file)
        clicks = make_clicks(whole_objects(truth), setting="1/category", seed=0)
        if experiment.control == "click":
            clicks = offset_clicks(whole_objects(truth), level, seed=0)
        found = predict_coco(model, CocoFolder(file, file.parent, source=experiment.factor), [clicks])[0]
        objects, false = cases(file, found, clicks, source="scenes")
    total = float(objects["weight"].sum())
    if experiment.factor == "truncated" and objects["truncated"].any():
        chosen = objects["truncated"] == 1
        objects = {key: column[chosen] for key, column in objects.items()}
    measured = objects[experiment.factor].astype(np.float64)
    measured = measured[np.isfinite(measured)]
    middle = float(np.median(measured)) if len(measured) else None
    return {"level": float(level), "measured": middle, **found_row(objects, false, total)}


def run_step(model: DEAL, attribute: str, step: float, *, scenes: int, size: int = 256, seed: int = EVAL_SEED) -> Json:
    """Scenes with two kinds that differ by one step of one attribute, a click on one object of each.

    Returns:
        `step`, the numbers of `found_row`, and `confused`: of the shown detections that lie on an object of either kind, the
        share on the kind that was not clicked; without any difference it is a half.
    """
    controls = BASE | {"num_objects": 24, "twin": (attribute, step)} | ({"grey": False} if attribute == "hue" else {})
    if attribute == "size":
        controls |= {"object_size": None, "sizes": (12.0, 12.0)}
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder), scenes, size=size, seed=seed, progress=False, **controls)
        clicks = make_clicks(file, setting="1/category", seed=0)
        found = predict_coco(model, CocoFolder(file, file.parent, source=attribute), [clicks])[0]
        errors = find_errors(file, found, clicks, ignore_clicked=True)
        matrix = confusion_matrix(errors)[:, :-1]
        objects, false = cases(file, found, clicks, source="scenes", errors=errors)
    own, every = float(np.trace(matrix)), float(matrix.sum())
    confused = (every - own) / every if every else None
    return {"step": float(step), "confused": confused, **found_row(objects, false)}


def controlled(
    checkpoint: Path,
    out: Path,
    *,
    scenes: int = 40,
    large: int = 40,
    factors: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
) -> Json:
    """All experiments of a checkpoint; writes and returns the results, and goes on where it was stopped.

    Args:
        checkpoint: model weights. out: JSON to write.
        scenes: of each level and step. large: 512 px scenes of the evaluation across sizes; 0 leaves it out.
        factors: of `EXPERIMENTS`; None all. attributes: of `STEPS`; None all.

    Returns:
        `factors`: factor -> `label`, `unit`, `levels` (rows of `run_level`), `drop` in `shown` over all levels; `fine_grained`:
        attribute -> rows of `run_step`; `scales`: of `evaluate_across_scales`.

    Raises:
        ValueError: an unknown factor or attribute; says which there are.
    """
    by_name = {experiment.factor: experiment for experiment in EXPERIMENTS}
    factors, attributes = list(by_name if factors is None else factors), list(STEPS if attributes is None else attributes)
    for name, known in [*((f, by_name) for f in factors), *((a, STEPS) for a in attributes)]:
        if name not in known:
            raise ValueError(f"controlled: expected some of {', '.join(known)}, got {name!r}")
    request: Json = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "scenes": scenes, "large": large}
    request |= {"base": BASE, "seed": EVAL_SEED}
    results: Json = {"request": request, "factors": {}, "fine_grained": {}, "scales": None}
    if Path(out).is_file() and read_json(out).get("request") == request:
        results = read_json(out)
    model = load_model(checkpoint)
    jobs = [("factors", f, level) for f in factors for level in by_name[f].levels]
    jobs += [("fine_grained", a, step) for a in attributes for step in STEPS[a]]
    for part, name, value in tqdm(jobs, desc="levels", unit="level"):
        rows = results[part].setdefault(name, {"levels": []})["levels"]
        key = "level" if part == "factors" else "step"
        if any(row[key] == value for row in rows):
            continue
        if part == "factors":
            rows.append(run_level(model, by_name[name], value, scenes=scenes))
            unit = {"label": FACTORS[name], "unit": by_name[name].unit}
            results[part][name] |= unit | {"drop": drop(rows, x="level")}
        else:
            rows.append(run_step(model, name, value, scenes=scenes))
        write_json(out, results)
    if large and results["scales"] is None:
        results["scales"] = evaluate_across_scales(model, large)
    write_json(out, {**results, "made_by": provenance()})
    return results
