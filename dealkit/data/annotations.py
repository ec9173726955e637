"""COCO JSON by one checked reader, for every command: an error is one line that names the file, the record and the field.

Boxes are `xywh` pixels, as on disk; (0, 0) is the image's top-left corner. Nothing here needs torch.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from tqdm import tqdm

from dealkit.files import OUTSIDE, Json, read_json, tell

BOX_TOLERANCE = 1.0
"""Pixels by which a box on disk may stand out of its image; what stands out is cut off on reading.

Choice: 1-based and inclusive coordinates, and rounding, overshoot by up to one pixel. More means another image or another frame.
"""

BESIDE = "beside"
"""Stands for the folder of images that belongs to a COCO file, see `image_folder`."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data set; `str(problem)` is one line."""

    file: str
    """Annotation file or image."""
    where: str
    """Record it is about: `annotation 17`, `image 3`, `images[2]` where the record has no usable id, or `file`."""
    field: str
    """Key of that record."""
    message: str
    """What came and what was expected."""

    def __str__(self) -> str:
        line = " ".join(f"{self.file}: {self.where}: {self.field}: {self.message}".split())
        return line.encode("utf-8", "backslashreplace").decode()  # half a character, which no terminal prints


def read_coco(source: Json | str | Path, *, drop: bool = False) -> Json:
    """Ground truth in COCO form, checked: what the file holds, every annotation with a sound `bbox`.

    Where `bbox` is missing or empty it is that of the mask, polygons or RLE; how many is told in a line (`dealkit.files.tell`).
    `width`, `height`, `file_name` and names may be missing, for nothing here opens an image; `CocoFolder` is stricter.

    Args:
        source: COCO data or the path of its JSON.
        drop: leave out annotations without a positive width and height, and tell how many; else they are a problem.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the first problem; names file, record and field.

    >>> row = {"id": 7, "image_id": 1, "category_id": 2, "segmentation": [[10, 20, 14, 20, 14, 26]]}
    >>> read_coco({"images": [{"id": 1}], "categories": [{"id": 2}], "annotations": [row]})["annotations"][0]["bbox"]
    [10.0, 20.0, 4.0, 6.0]
    """
    tables, problems = parse(source, drop=drop)
    if problems:
        missing = problems[0].where == "file" and problems[0].field == "path"
        raise (FileNotFoundError if missing else ValueError)(str(problems[0]))
    return {**tables["data"], "annotations": tables["rows"]}


def image_folder(annotations: str | Path) -> Path:
    """Folder that the file names of a COCO file are relative to: `images` beside it, or its own if only that has the first one.

    >>> image_folder("scenes/annotations.json").as_posix()
    'scenes/images'
    """
    try:
        return _image_folder(Path(annotations), read_json(Path(annotations))["images"])
    except (OSError, ValueError, KeyError, TypeError):  # `parse` says what is wrong
        return Path(annotations).parent / "images"


def _image_folder(annotations: Path, records: Any) -> Path:
    beside, own = annotations.parent / "images", annotations.parent
    first = records[0] if isinstance(records, list) and records else None
    name = first.get("file_name") if isinstance(first, dict) else None
    return own if is_text(name) and name and not _is_file(beside / name) and _is_file(own / name) else beside


def parse(
    source: Json | str | Path, images: Path | str | None = None, *, drop: bool = False
) -> tuple[Json | None, list[Problem]]:
    """What of COCO data is sound, and every problem; None for what is no COCO data at all.

    Args:
        images: folder that the file names are relative to, or `BESIDE`: then each image needs a file there and a size.
        drop: as in `read_coco`.

    Returns:
        `data`: all of the file; `rows`: its annotations that are sound, each with a `bbox`; `categories`: (id, name), sorted by
        id; `image_ids`, `file_names`, `sizes_hw`: of the images that are sound, in the order of the file; `images`: the folder.
    """
    problems: list[Problem] = []
    name = str(source) if isinstance(source, str | Path) else "coco"

    def add(where: str, field: str, message: str) -> None:
        problems.append(Problem(name, where, field, message))

    data: Any = {}
    try:
        data = read_json(source)
        if not isinstance(data, dict):
            add("file", "content", f"expected an object with images, annotations and categories, got a {type(data).__name__}")
    except FileNotFoundError:
        add("file", "path", "no such file")
    except ValueError as error:
        add("file", "content", str(error).removeprefix(f"{name}: "))
    for key in ("images", "annotations", "categories") if not problems else ():
        if not isinstance(data.get(key), list):
            add("file", key, "missing" if key not in data else f"expected a list, got a {type(data[key]).__name__}")
    if problems:
        return None, problems
    if images == BESIDE:
        images = _image_folder(Path(name), data["images"])
    if images is not None and not images.is_dir():
        problems.append(Problem(str(images), "file", "path", "no such folder of images"))

    categories: dict[int, str] = {}
    for where, category_id, row in _rows(data["categories"], "categories", "category", add):
        if not is_text(row.get("name")) and (images is not None or "name" in row):
            add(where, "name", f"expected text, got {row.get('name')!r:.80}")
        categories[category_id] = str(row.get("name", category_id))
    sizes, names = _parse_images(data["images"], images, add)
    known_images = {row["id"] for row in data["images"] if isinstance(row, dict) and is_whole(row.get("id"))}
    rows, masks, dropped = [], 0, 0
    each = _rows(data["annotations"], "annotations", "annotation", add)
    total = len(data["annotations"])
    bar = tqdm(each, desc=f"read {PurePath(name).name}", total=total, unit="row", delay=3, leave=False)
    for where, annotation_id, row in bar:
        before = len(problems)
        if annotation_id == 0 and images is not None:
            add(where, "id", "0 can never be matched by pycocotools, expected ids from 1")
        image_id, category_id = row.get("image_id"), row.get("category_id")
        if not (is_whole(category_id) and category_id in categories):
            add(where, "category_id", f"unknown category {category_id!r:.80}" if "category_id" in row else "missing")
        if not (is_whole(image_id) and image_id in known_images):
            add(where, "image_id", f"unknown image {image_id!r:.80}" if "image_id" in row else "missing")
        for field in ("iscrowd", "ignore"):
            if row.get(field, 0) not in (0, 1):
                add(where, field, f"expected 0 or 1, got {row[field]!r:.80}")
        if "area" in row and not (is_number(row["area"]) and row["area"] >= 0):
            add(where, "area", f"expected a finite number from 0, got {row['area']!r:.80}")
        bbox, wrong, field = row.get("bbox"), None, "bbox"
        if masked := bbox in (None, []) and bool(row.get("segmentation")):
            bbox, wrong, field = *box_of_mask(row["segmentation"]), "segmentation"
        elif not (isinstance(bbox, list | tuple) and len(bbox) == 4 and all(map(is_number, bbox))):
            expected = f"expected four finite numbers x, y, width, height, got {bbox!r:.80}"
            wrong = expected if "bbox" in row else "missing, and no mask in segmentation to take it from"
        if wrong is None and (bbox[2] <= 0 or bbox[3] <= 0):
            if drop:
                dropped += 1
                continue
            wrong = f"expected a positive width and height (`--drop` leaves the annotation out), got {bbox!r}"
        if wrong is None and is_whole(image_id) and image_id in sizes:
            wrong = outside(bbox, sizes[image_id])
        if wrong is not None:
            add(where, field, wrong)
        if len(problems) == before and image_id in sizes:
            rows.append(row | {"bbox": bbox} if masked else row)
            masks += masked
    if masks:
        tell(f"{name}: {masks} annotations without a bbox: their boxes are those of their masks")
    if dropped:
        tell(f"{name}: {dropped} annotations without a positive width and height are left out")
    tables = {"data": data, "rows": rows, "categories": sorted(categories.items())}
    tables |= {"image_ids": list(sizes), "file_names": names, "sizes_hw": list(sizes.values()), "images": images}
    return tables, problems


_Add = Callable[[str, str, str], None]


def _parse_images(rows: list[Any], folder: Path | None, add: _Add) -> tuple[dict[int, tuple[float, float]], list[str]]:
    """Size_hw by image id, infinite where it is not stated, and file names, of the records that are sound."""
    sizes, owner, names = {}, {}, []
    for where, image_id, row in _rows(rows, "images", "image", add):
        wrong = False
        for field in ("height", "width"):
            if not (is_whole(row.get(field)) and row[field] > 0) and (folder is not None or field in row):
                add(where, field, f"expected a positive integer, got {row[field]!r:.80}" if field in row else "missing")
                wrong = True
        name = row.get("file_name")
        if folder is not None or "file_name" in row:
            if not (is_text(name) and name and "\0" not in name):
                add(where, "file_name", f"expected text, got {name!r:.80}" if "file_name" in row else "missing")
                continue
            if (PurePath(name).is_absolute() or ".." in PurePath(name).parts) and OUTSIDE not in os.environ:
                expected = "a path inside the folder of images (`--allow-outside` takes others)"
                add(where, "file_name", f"expected {expected}, got {name!r:.200}")
                continue
            if folder is not None and name in owner:  # data of several folders may be pooled
                add(where, "file_name", f"{name} is already the file of image {owner[name]}")
            owner.setdefault(name, image_id)
            if folder is not None and not _is_file(folder / name):
                add(where, "file_name", f"no such file: {folder / name}")
        if not wrong:
            sizes[image_id] = (row.get("height", math.inf), row.get("width", math.inf))
            names.append(name)
    return sizes, names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system
        return False


def _rows(rows: list[Any], key: str, kind: str, add: _Add) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(where, id, record) of the records whose id is an integer seen for the first time; reports the others."""
    seen: set[int] = set()
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            add(f"{key}[{i}]", "record", f"expected an object, got {row!r:.60}")
        elif not is_whole(row.get("id")):
            add(f"{key}[{i}]", "id", f"expected an integer, got {row['id']!r:.60}" if "id" in row else "missing")
        elif row["id"] in seen:
            add(f"{kind} {row['id']}", "id", f"used more than once, again in {key}[{i}]")
        else:
            seen.add(row["id"])
            yield f"{kind} {row['id']}", row["id"], row


def box_of_mask(mask: Any) -> tuple[list[float] | None, str | None]:
    """xywh box round COCO polygons, or an RLE with its counts as a list or packed; or None and what is wrong with it.

    >>> box_of_mask([[1, 2, 5, 2, 5, 4]]), box_of_mask({"size": [4, 5], "counts": [4, 2, 14]})
    (([1.0, 2.0, 4.0, 2.0], None), ([1.0, 0.0, 1.0, 2.0], None))
    """
    if isinstance(mask, dict):
        from hotcoco import mask as rle  # here: few files have one

        try:
            height, width = mask["size"]
            packed = rle.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
            return [float(v) for v in rle.toBbox(packed)], None
        except Exception as error:
            return None, f"expected an RLE {{size, counts}}: {type(error).__name__}: {error!s:.120}"
    polygons = mask if isinstance(mask, list) else []
    sound = (isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_number, p)) for p in polygons)
    if not polygons or not all(sound):
        return None, f"expected polygons [[x, y, x, y, x, y, ...], ...] or an RLE, got {mask!r:.80}"
    xs, ys = ([v for polygon in polygons for v in polygon[k::2]] for k in (0, 1))
    return [float(v) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))], None


def outside(bbox: list[float], size_hw: tuple[float, float]) -> str | None:
    """What is wrong with the place of an xywh box in its image, or None."""
    x, y, width, height = bbox
    limit_y, limit_x = size_hw
    if min(x, y) < -BOX_TOLERANCE or x + width > limit_x + BOX_TOLERANCE or y + height > limit_y + BOX_TOLERANCE:
        return f"{list(bbox)} is outside the image of {limit_x} x {limit_y} (width x height)"
    x1, y1, x2, y2 = inside(bbox, size_hw)
    if x2 <= x1 or y2 <= y1:
        return f"{list(bbox)} has no area inside the image of {limit_x} x {limit_y} (width x height) in float32"
    return None


def inside(bbox: list[float], size_hw: tuple[float, float]) -> list[float]:
    """xyxy of the part of an xywh box that lies in its image, as float32 holds it."""
    x, y, width, height = bbox
    box = max(x, 0), max(y, 0), min(x + width, size_hw[1]), min(y + height, size_hw[0])
    return np.float32(box).tolist()


def is_whole(value: Any) -> bool:
    """An id or size: an integer that float64, in which pycocotools keeps ids, holds exactly."""
    return type(value) is int and abs(value) < 2**53


def is_number(value: Any) -> bool:
    """A finite number that float32 holds without being far off."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < 1e9 and math.isfinite(value)


def is_text(value: Any) -> bool:
    """Text that can be written and printed; JSON may hold half a character."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False
