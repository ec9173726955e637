"""Parts of a COCO source: some of its images, some of its categories; procedural families as sources.

A source is a folder with `train.json`, `val.json` and `images/`, to which their file names are relative. A part is a folder of
the same form and name, whose `images` is a link to the source's.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dealkit.data.annotations import read_coco
from dealkit.files import Json, link_folder, write_text


def find_sources(root: str | Path) -> list[str]:
    """Names of the folders under `root` that have `train.json`, `val.json` and `images`, sorted; none is an error."""
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


def part_of(data: Json, *, images: Collection[int] | None = None, categories: Collection[int] | None = None) -> Json:
    """Ground truth, or a click list, of some images and some categories, both by id; None: of all.

    An image stays without its objects of other categories, a category without its objects in other images.

    >>> objects = [{"image_id": 1, "category_id": 5}, {"image_id": 2, "category_id": 5}, {"image_id": 2, "category_id": 6}]
    >>> part_of({"seed": 0, "prompts": objects}, images=[2], categories=[5])
    {'seed': 0, 'prompts': [{'image_id': 2, 'category_id': 5}]}
    """
    of_image, of_category = (None if ids is None else set(ids) for ids in (images, categories))
    of_object = {"image_id": of_image, "category_id": of_category}
    fields = {"images": {"id": of_image}, "categories": {"id": of_category}, "annotations": of_object, "prompts": of_object}

    def kept(name: str) -> list[Json]:
        return [row for row in data[name] if all(ids is None or row[key] in ids for key, ids in fields[name].items())]

    return {**data, **{name: kept(name) for name in fields if name in data}}


def some_images(file: Path, count: int, out: Path, *, seed: int = 0) -> Path:
    """`count` images of a source's file that have an object, all if there are fewer; written to `out/<source>/<file name>`.

    `seed` says which. A count below 1, or no image with an object, is an error that names the file.
    """
    if count < 1:
        raise ValueError(f"{file}: images: expected at least 1, got {count}")
    data = read_coco(Path(file))
    filled = {a["image_id"] for a in data["annotations"] if not a.get("iscrowd") and not a.get("ignore")}
    if not filled:
        raise ValueError(f"{file}: no image with an object")
    return _write_part(Path(file), out, part_of(data, images=in_order(filled, seed)[:count]))


def some_categories(file: Path, names: Collection[str], out: Path) -> Path:
    """A source's file with the objects of these categories only, all images; written to `out/<source>/<file name>`.

    Objects of other categories stand there without a box, as background does.

    Raises:
        ValueError: a name that is no category of the file; names both.
    """
    data = read_coco(Path(file))
    known = {row["name"]: row["id"] for row in data["categories"]}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{file}: categories: no {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return _write_part(Path(file), out, part_of(data, categories=[known[name] for name in names]))


def _write_part(file: Path, out: Path, data: Mapping[str, Any]) -> Path:
    folder = Path(out) / file.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "images"
    if not link.exists():
        link_folder(link, file.parent / "images")
    part, text = folder / file.name, json.dumps(data)
    if not part.is_file() or part.read_text(encoding="utf-8") != text:
        write_text(part, text)
    return part


def first_images(truth: Json, images: int | None) -> Json:
    """A COCO file's first images (None: all) and their annotations.

    >>> truth = {"images": [{"id": 4}, {"id": 2}], "annotations": [{"image_id": 2}], "categories": []}
    >>> first_images(truth, 1)
    {'images': [{'id': 4}], 'annotations': [], 'categories': []}
    """
    return part_of(truth, images=[row["id"] for row in truth["images"][:images]])
