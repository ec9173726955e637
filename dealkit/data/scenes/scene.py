"""Procedural scenes with unlimited categories, exact boxes and known factors.

`N` objects, `H`, `W` image height and width, `C` colour channels. A scene is settled by (seed, index) alone: scene i is the same
whatever was made before it; another processor or numpy may round a pixel otherwise. Scenes of one seed never appear under
another, so a model trained on `TRAIN_SEED` has seen nothing of `EVAL_SEED`.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from dealkit.data.coco import Sample, coco_dict
from dealkit.data.measures import local_density
from dealkit.data.scenes.backgrounds import draw_background
from dealkit.data.scenes.canvas import (
    FAINTEST,
    Canvas,
    add_sensor,
    border_places,
    candidate_places,
    lattice_places,
    paste,
    visible_boxes,
)
from dealkit.data.scenes.plan import (
    SceneControls,
    ScenePlan,
    alter_categories,
    draw_plan,
    fix_categories,
    object_counts,
    scene_categories,
)
from dealkit.data.scenes.sprites import Category, category_names, render_variants
from dealkit.files import write_atomically, write_text
from dealkit.jobs import remove_strays

TRAIN_SEED = 0
"""Seed of scenes for training."""
EVAL_SEED = 1_000_003
"""Seed of scenes for validation and reports."""
CHOICE_SEED = EVAL_SEED + 1
"""Family of scenes that choices are made on: neither trained on nor published as a result."""


def _fill(
    canvas: Canvas, categories: list[Category], plan: ScenePlan, controls: SceneControls, rngs: list[np.random.Generator]
) -> None:
    """Place the objects, large categories first; where the layout has no more room, anywhere."""
    layout_rng, place_rng, sprite_rng = rngs
    size_hw = canvas.owner.shape
    counts = object_counts(plan, categories, size_hw, exact=controls.num_objects is not None)
    if plan.shared_layout:
        spacing = max(c.size for c in categories)
        pool, pool_directions = candidate_places(layout_rng, plan.layouts[0], sum(counts), spacing, size_hw)
    taken = 0
    for label in np.argsort([-c.size for c in categories], kind="stable").tolist():
        c, n = categories[label], counts[label]
        sprites = render_variants(c, sprite_rng, n, blur=plan.blur, light=plan.light, box_size=controls.object_size)
        layout = plan.layouts[0 if plan.shared_layout else label % len(plan.layouts)]
        if plan.shared_layout:
            places, directions = pool[taken:], pool_directions[taken:]
        else:
            places, directions = candidate_places(layout_rng, layout, n, c.size, size_hw)
        spare = place_rng.uniform(0, 1, (3 * n + 20, 2)) * size_hw[::-1]
        if controls.spacing is not None or controls.cut is not None:
            side, spare = controls.object_size or c.size, np.empty((0, 2))  # what finds no room there is left out
            if controls.spacing is not None:
                places = lattice_places(n, controls.spacing * side, size_hw)
            else:
                places = border_places(n, controls.cut, side, size_hw)
            directions = np.zeros(len(places))
        turn, strength = plan.shadow
        length = min(max(0.3 * c.size, 1), 8)
        shadow = (round(length * np.cos(turn)), round(length * np.sin(turn)), strength)
        overlap = max(plan.max_overlap, 0.15 if layout == "dense" else 0.0, 0.6 if controls.spacing is not None else 0.0)
        chosen = place_rng.integers(0, len(sprites), len(places) + len(spare))
        placed = 0
        for k, xy in enumerate(np.concatenate([places, spare])):
            if placed == n:
                break
            sprite = sprites[chosen[k]]
            if k < len(places):
                taken += 1
                if c.turn == "layout":
                    sprite = min(sprites, key=lambda s, d=directions[k]: -np.cos(s.angle - d))
            placed += paste(canvas, sprite, xy, label, overlap, shadow)


class _Scene(NamedTuple):
    """A sample and what is known of it; lists and rows in the order of its labels and boxes."""

    sample: Sample
    plan: ScenePlan
    categories: list[Category]
    background: str
    mean: NDArray[np.float32]
    spread: float
    sensor: dict[str, float]
    contrasts: NDArray[np.float64]
    visible: NDArray[np.float64]


def _render(index: int, size_hw: tuple[int, int], seed: int, controls: SceneControls) -> _Scene:
    if index < 0 or seed < 0 or min(size_hw) < 16:
        raise ValueError(f"scene: expected index and seed >= 0 and size_hw >= 16, got {index}, {seed}, {size_hw}")
    if controls.object_size is not None and controls.object_size > 0.5 * min(size_hw):
        raise ValueError(f"object_size: expected at most half the shorter side of {size_hw}, got {controls.object_size}")
    plan_rng, ground_rng, sensor_rng, *fill_rngs = _streams([seed, index], 6)
    plan = draw_plan(plan_rng, size_hw, controls)
    look = {"grey": plan.grey, "clutter": plan.clutter, "blur": plan.blur, "families": controls.grounds}
    image, background = draw_background(ground_rng, size_hw, **look)
    mean, spread = image[::3, ::3].mean((0, 1)), float(image[::3, ::3].std((0, 1)).mean())
    categories = scene_categories(_streams([seed, index, 1], plan.num_categories), plan, controls, mean, spread)
    if (controls.enlarge, controls.sizes, controls.variety) != (None, None, None):
        categories = alter_categories(categories, controls, _streams([seed, index, 2], 1)[0], size_hw)
    categories = fix_categories(categories, controls)

    faintest = FAINTEST if controls.contrast is None else min(FAINTEST, 0.5 * controls.contrast)
    canvas = Canvas(image, np.zeros(size_hw, np.int32), faintest)
    _fill(canvas, categories, plan, controls, fill_rngs)
    boxes, keep, visible = visible_boxes(canvas)
    present, labels = np.unique(np.array(canvas.labels, np.int64)[keep], return_inverse=True)
    categories = [categories[i] for i in present]
    contrasts = np.array(canvas.contrasts)[keep]

    smallest = min((c.size for c in categories), default=8.0)
    weakest = float(np.quantile(contrasts, 0.1)) if len(contrasts) else 0.3
    invert = 0.15 if plan.grey else 0.04
    picture, sensor = add_sensor(sensor_rng, canvas.image, smallest=smallest, weakest=weakest, invert=invert)
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1)
    sample = Sample(
        image=torch.from_numpy(np.repeat(pixels, 3, 0) if plan.grey else np.ascontiguousarray(pixels)),
        boxes=torch.from_numpy(boxes[keep]),
        labels=torch.from_numpy(labels.astype(np.int64)),
        image_id=index,
        crowd=torch.zeros(len(labels), dtype=torch.bool),
        annotation_ids=torch.arange(1, len(labels) + 1),
        source="synthetic",
    )
    return _Scene(sample, plan, categories, background, mean, spread, sensor, contrasts, visible[keep])


def _streams(key: list[int], number: int) -> list[np.random.Generator]:
    """Independent random sources; the first of them are the same whatever `number` is."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence(key).spawn(number)]


def make_scene(index: int, *, size_hw: tuple[int, int] = (256, 256), seed: int = TRAIN_SEED, **controls: Any) -> Sample:
    """Make one scene.

    Args:
        index: number of the scene within its seed.
        size_hw: height and width of the image, pixels, each at least 16.
        controls: fields of `SceneControls`, such as `object_size=8`.

    Returns:
        `boxes` are those of the rendered opacity, clipped to the image; where others cover a side, of what remains visible.
        `labels` run from 0 to the scene's number of categories less 1 and mean nothing outside the scene.

    Raises:
        ValueError: `index`, `seed` or `size_hw` out of range, or a control out of its range.
        TypeError: a control that `SceneControls` does not have.

    >>> sample = make_scene(7)
    >>> tuple(sample.image.shape), sample.source
    ((3, 256, 256), 'synthetic')
    >>> torch.equal(make_scene(7).image, sample.image)
    True
    """
    return _render(index, size_hw, seed, SceneControls(**controls)).sample


def scene_factors(
    index: int, *, size_hw: tuple[int, int] = (256, 256), seed: int = TRAIN_SEED, **controls: Any
) -> dict[str, Any]:
    """What is known of the scene that `make_scene` makes from the same arguments, ready for JSON.

    Returns:
        Scene factors: `background` (family), `background_mean` (C values), `background_spread` (standard deviation), `layouts`
        (those in use), `num_objects`, `num_categories`, `clutter`, `blur` (pixels), `grey`, `noise` (share of full scale) and
        `inverted`. `categories`, in the order of the labels: the fields of `Category`, `name` and `contrast` (mean distance of
        the main colour from `background_mean`). `objects`, lists in the order of the boxes: `category` (the label), `size`
        (square root of the box area, pixels), `contrast` (mean distance from what the object covers, 0..1, before noise),
        `visible` (share not covered by others), `density` (other objects whose centre is within 32 pixels).

    Raises:
        ValueError, TypeError: as `make_scene`.

    >>> factors = scene_factors(7, num_objects=5, object_size=10)
    >>> factors["num_objects"], len(factors["objects"]["size"])
    (5, 5)
    """
    scene = _render(index, size_hw, seed, SceneControls(**controls))
    boxes, labels, plan = scene.sample.boxes.numpy(), scene.sample.labels.tolist(), scene.plan
    categories = []
    for c, name in zip(scene.categories, category_names(scene.categories), strict=True):
        contrast = float(np.abs(np.subtract(c.colour, scene.mean)).mean())
        categories.append({"name": name, "contrast": contrast} | asdict(c))
    return {
        "background": scene.background,
        "background_mean": scene.mean.tolist(),
        "background_spread": scene.spread,
        "num_objects": len(labels),
        "num_categories": len(categories),
        "layouts": list(plan.layouts[: 1 if plan.shared_layout else max(plan.num_categories, 1)]),
        "clutter": plan.clutter,
        "blur": plan.blur,
        "grey": plan.grey,
        **scene.sensor,
        "categories": categories,
        "objects": {
            "category": labels,
            "size": np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).tolist(),
            "contrast": scene.contrasts.tolist(),
            "visible": scene.visible.tolist(),
            "density": local_density(boxes).tolist(),
        },
    }


def write_coco(
    folder: Path, count: int, *, size: int = 256, seed: int = TRAIN_SEED, progress: bool = True, **controls: Any
) -> Path:
    """Write scenes 0 to `count - 1` as PNG files and one COCO file; existing files of these names are replaced.

    Categories: each category of each scene has an id of its own, since unlimited kinds share no list. Its name is
    'scene12/red ring' (a number behind it where two would be equal). So an evaluation that takes one click per category works
    class by class. Ids of images, annotations and categories start at 1: image id i + 1 is scene i.

    Args:
        folder: made if missing; receives `images/000001.png` ... and `annotations.json`.
        size: height and width of the images, pixels.
        controls: fields of `SceneControls`.

    Returns:
        The path of `annotations.json`; `file_name` in it is relative to `folder`.

    >>> import tempfile
    >>> path = write_coco(Path(tempfile.mkdtemp()), 2, size=64)
    >>> [image["file_name"] for image in json.loads(path.read_text())["images"]]
    ['images/000001.png', 'images/000002.png']
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    remove_strays(folder)
    rows: list[tuple[str, tuple[int, int], torch.Tensor, torch.Tensor]] = []
    names: list[str] = []
    for index in tqdm(range(count), desc="scenes", unit="scene", disable=not progress):
        scene = _render(index, (size, size), seed, SceneControls(**controls))
        file_name = f"images/{index + 1:06d}.png"
        image = Image.fromarray(scene.sample.image.permute(1, 2, 0).numpy())
        write_atomically(folder / file_name, partial(image.save, format="PNG"))
        rows.append((file_name, (size, size), scene.sample.boxes, scene.sample.labels + len(names)))
        names += [f"scene{index}/{name}" for name in category_names(scene.categories)]
    path = folder / "annotations.json"
    write_text(path, json.dumps(coco_dict(rows, names)))
    return path
