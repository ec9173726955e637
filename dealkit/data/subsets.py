"""Parts of a COCO source: some of its images, some of its categories; procedural families as sources.

A source is a folder with `train.json`, `val.json` and `images/`, to which their file names are relative. A part is a folder of
the same form and name, whose `images` is a link to the source's.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dealkit.config import BuildConfig
from dealkit.data.coco import Sample, coco_dict
from dealkit.data.synthetic import EVAL_SEED, make_scene, scene_factors
from dealkit.data.tiles import objects_in_window
from dealkit.files import read_json

FAMILIES: dict[str, dict[str, Any]] = {
    "tiny": {"object_size": 7.0, "num_objects": 24},
    "large": {"object_size": 40.0, "num_objects": 5, "variety": 1.0},
    "faint": {"grey": True, "contrast": 0.1, "object_size": 14.0, "num_objects": 12},
    "cluttered": {"clutter": 1.0, "object_size": 14.0, "num_objects": 12},
}
"""Controls of the scene of each procedural family, `num_objects` per image: what one data set has and another has not."""


def find_sources(root: str | Path) -> list[str]:
    """Names of the folders under `root` that have `train.json`, `val.json` and `images`, sorted.

    Raises:
        ValueError: there is none; names the folder.
    """
    names = sorted(path.parent.name for path in Path(root).glob("*/train.json") if _is_source(path.parent))
    if not names:
        raise ValueError(f"{root}: no source; expected folders with train.json, val.json and images")
    return names


def _is_source(folder: Path) -> bool:
    return (folder / "val.json").is_file() and (folder / "images").is_dir()


def in_order(image_ids: Collection[int], seed: int) -> list[int]:
    """Image ids in an order that depends on each id and the seed alone, so that fewer are always the first of more.

    >>> in_order([1, 2, 3], 0) == in_order([3, 2, 1], 0) != in_order([1, 2, 3], 1)
    True
    """
    return sorted(image_ids, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())


def some_images(file: Path, count: int, out: Path, *, seed: int = 0) -> Path:
    """`count` images of a source's file that have an object, all if there are fewer; written to `out/<source>/<file name>`.

    Args:
        file: `<source>/train.json` or `val.json`. seed: which images.

    Raises:
        ValueError: a count below 1, or no image with an object; names the file.
    """
    if count < 1:
        raise ValueError(f"{file}: images: expected at least 1, got {count}")
    data = read_json(Path(file))
    filled = {a["image_id"] for a in data["annotations"] if not a.get("iscrowd") and not a.get("ignore")}
    if not filled:
        raise ValueError(f"{file}: no image with an object")
    chosen = set(in_order(filled, seed)[:count])
    images = [row for row in data["images"] if row["id"] in chosen]
    annotations = [a for a in data["annotations"] if a["image_id"] in chosen]
    return _write_part(Path(file), out, {**data, "images": images, "annotations": annotations})


def some_categories(file: Path, names: Collection[str], out: Path) -> Path:
    """A source's file with the objects of these categories only, all images; written to `out/<source>/<file name>`.

    Objects of other categories stand there without a box, as background does.

    Raises:
        ValueError: a name that is no category of the file; names both.
    """
    data = read_json(Path(file))
    known = {row["name"]: row["id"] for row in data["categories"]}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{file}: categories: no {unknown[0]!r}; it has {', '.join(sorted(known))}")
    ids = {known[name] for name in names}
    annotations = [a for a in data["annotations"] if a["category_id"] in ids]
    categories = [row for row in data["categories"] if row["id"] in ids]
    return _write_part(Path(file), out, {**data, "annotations": annotations, "categories": categories})


def _write_part(file: Path, out: Path, data: Mapping[str, Any]) -> Path:
    folder = Path(out) / file.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "images"
    if not link.exists():
        link.symlink_to((file.parent / "images").resolve(), target_is_directory=True)
    part, text = folder / file.name, json.dumps(data)
    if not part.is_file() or part.read_text(encoding="utf-8") != text:
        temporary = part.with_suffix(".part")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, part)
    return part


def write_families(
    root: str | Path,
    *,
    train: int,
    val: int,
    size: int = 128,
    families: Mapping[str, Mapping[str, Any]] = FAMILIES,
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
                Image.fromarray(pixels).save(folder / "images" / f"{tile:03d}.png")
                rows.append((f"{tile:03d}.png", (size, size), boxes, labels))
            (folder / f"{split}.json").write_text(json.dumps(coco_dict(rows, kinds)), encoding="utf-8")
    return list(families)


def _is_everywhere(scene: Sample, count: int) -> bool:
    """Whether every kind has objects in half of the scene's `count` tiles; many layouts leave most of a long scene empty."""
    tile = (scene.boxes[:, 0] * count / scene.image.shape[2]).long()
    return all(2 * len(tile[scene.labels == kind].unique()) >= count for kind in (0, 1))
