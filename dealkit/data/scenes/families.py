"""Procedural families as sources: folders with `train.json`, `val.json` and `images`."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dealkit.config import BuildConfig
from dealkit.data.coco import Sample, coco_dict
from dealkit.data.scenes.scene import EVAL_SEED, make_scene, scene_factors
from dealkit.data.tiles import objects_in_window
from dealkit.files import write_atomically, write_text

FAMILIES: dict[str, dict[str, Any]] = {
    "tiny": {"object_size": 7.0, "num_objects": 24},
    "large": {"object_size": 40.0, "num_objects": 5, "variety": 1.0},
    "faint": {"grey": True, "contrast": 0.1, "object_size": 14.0, "num_objects": 12},
    "cluttered": {"clutter": 1.0, "object_size": 14.0, "num_objects": 12},
}
"""Controls of the scene of each procedural family, `num_objects` per image: what one data set has and another has not."""


def write_families(
    root: str | Path, *, train: int, val: int, size: int = 128, families: Mapping[str, Mapping[str, Any]] = FAMILIES
) -> list[str]:
    """Procedural families as sources under `root`; returns their names.

    The images of a family are tiles of one large scene: ground and kinds of object are the same in all, as in a data set of one
    place. Scenes are of evaluation seeds that nothing is trained on.

    Args:
        train, val: images of each split. size: side of an image, pixels.
        families: controls of `make_scene` by name; `num_objects` is per image.

    Raises:
        ValueError: a family of too few objects; names it.

    >>> import tempfile
    >>> from dealkit.data.subsets import find_sources
    >>> from dealkit.files import read_json
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     names = write_families(folder, train=2, val=1, size=64, families={"few": {"num_objects": 2}})
    ...     find_sources(folder), len(read_json(Path(folder, "few", "train.json"))["images"])
    (['few'], 2)
    """
    count = train + val
    in_val = [(tile + 1) * val // count > tile * val // count for tile in range(count)]  # spread evenly over the scene
    for number, (name, controls) in enumerate(families.items()):
        every = {"num_categories": 2, **controls, "num_objects": controls["num_objects"] * count}
        every |= {"size_hw": (size, size * count), "seed": EVAL_SEED + 10 + number}
        scenes = ((i, make_scene(i, **every)) for i in range(100))
        index, scene = next((pair for pair in scenes if _is_everywhere(pair[1], count)), (None, None))
        if scene is None:
            raise ValueError(f"family {name}: no scene of 100 has both kinds in half of its {count} images; give it more objects")
        kinds = [c["name"] for c in scene_factors(index, **every)["categories"]]
        folder = Path(root) / name
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for split, chosen in (("train", False), ("val", True)):
            rows = []
            for tile in (tile for tile in range(count) if in_val[tile] == chosen):
                window = (tile * size, 0, (tile + 1) * size, size)
                shown, boxes, visible = objects_in_window(scene.boxes.numpy(), window)
                whole = visible >= BuildConfig.min_visible
                labels, boxes = scene.labels[torch.from_numpy(shown[whole])], torch.from_numpy(boxes[whole])
                pixels = scene.image[:, :, window[0] : window[2]].permute(1, 2, 0).numpy()
                write_atomically(folder / "images" / f"{tile:03d}.png", partial(Image.fromarray(pixels).save, format="PNG"))
                rows.append((f"{tile:03d}.png", (size, size), boxes, labels))
            write_text(folder / f"{split}.json", json.dumps(coco_dict(rows, kinds)))
    return list(families)


def _is_everywhere(scene: Sample, count: int) -> bool:
    """Whether every kind has objects in half of the scene's `count` tiles; many layouts leave most of a long scene empty."""
    tile = (scene.boxes[:, 0] * count / scene.image.shape[2]).long()
    return all(2 * len(tile[scene.labels == kind].unique()) >= count for kind in (0, 1))
