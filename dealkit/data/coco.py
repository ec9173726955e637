"""Samples, COCO JSON folders, and a check that names the file, the annotation and the field.

On disk boxes are `xywh` pixels, in a `Sample` `xyxy` pixels; this module is that border. `N` boxes, (0, 0) the image's
top-left corner.
"""

import json
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert
from tqdm import tqdm

from dealkit.data.images import read_image
from dealkit.files import Json

SPLIT_NAMES = ("train", "val", "test")
NOT_STATED = "not stated"
"""What stands where a source says nothing: of its domain, its licence, its size."""
BOX_TOLERANCE = 1.0
"""Pixels by which a box on disk may stand out of its image; what stands out is cut off on reading.

Choice: 1-based and inclusive coordinates, and rounding, overshoot by up to one pixel. More means another image or another frame.
"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its boxes."""

    image: Tensor
    """(3, H, W) uint8 RGB."""
    boxes: Tensor
    """(N, 4) float32 xyxy pixels of `image`, inside it; N may be 0."""
    labels: Tensor
    """(N,) int64: category index within its source, 0-based, in the order of the file's categories sorted by id."""
    image_id: int
    """Of the annotation file."""
    crowd: Tensor
    """(N,) bool: regions that are neither found nor missed."""
    annotation_ids: Tensor
    """(N,) int64 annotation ids of the file, never 0."""
    source: str
    """Name of the data set the image comes from."""


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
        return " ".join(f"{self.file}: {self.where}: {self.field}: {self.message}".split())


class CocoFolder(torch.utils.data.Dataset[Sample]):
    """Map-style data set over a COCO JSON file and its folder of images.

    The file is checked in full on construction, images only for their presence; `check` also decodes them. Boxes are kept
    in flat arrays, 33 bytes each, so that millions fit and loader workers share them: those of image `i` are
    `boxes[rows(i)]`. `iscrowd: 1` or `ignore: 1` gives crowd. Images without annotations are ordinary samples.

    Attributes:
        categories: (id, name), sorted by id; a label is an index into this list.
        image_ids, file_names, sizes_hw: one entry per image, in the order of the file.
        boxes, labels, crowd, annotation_ids: one row per annotation, images in order; as in `Sample`.

    Args:
        images: folder that the file names are relative to.
        source: name of the data set; by default the name of the folder that holds `annotations`.

    Raises:
        ValueError: the first problem found, how many more there are, and the command that lists them all.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (8, 6)).save(f"{folder}/a.png")
    ...     data = coco_dict([("a.png", (6, 8), torch.tensor([[1.0, 2.0, 4.0, 6.0]]), torch.tensor([0]))], ["bolt"])
    ...     _ = Path(folder, "train.json").write_text(json.dumps(data))
    ...     CocoFolder(Path(folder, "train.json"), Path(folder), source="bolts")[0].boxes
    tensor([[1., 2., 4., 6.]])
    """

    def __init__(self, annotations: str | Path, images: str | Path, *, source: str | None = None) -> None:
        tables, problems = _parse(Path(annotations), Path(images))
        if tables is None or problems:
            more = f"{len(problems) - 1} more; " if len(problems) > 1 else ""
            command = f"python -m dealkit data check {shlex.quote(str(annotations))} --images {shlex.quote(str(images))}"
            raise ValueError(f"{problems[0]}\n{more}to list every problem: {command}")
        self.images = Path(images)
        self.source = source if source is not None else Path(annotations).resolve().parent.name
        self.categories: list[tuple[int, str]] = tables["categories"]
        self.image_ids: list[int] = tables["image_ids"]
        self.file_names: list[str] = tables["file_names"]
        self.sizes_hw: list[tuple[int, int]] = tables["sizes_hw"]
        order = torch.argsort(tables["image_index"], stable=True)
        names = ("boxes", "labels", "crowd", "annotation_ids")
        self.boxes, self.labels, self.crowd, self.annotation_ids = (tables[name][order] for name in names)
        self._ends = torch.cumsum(torch.bincount(tables["image_index"], minlength=len(self)), 0)

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """Rows of `boxes`, `labels`, `crowd` and `annotation_ids` that belong to image `index`; no image is read."""
        index = range(len(self))[index]
        return slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))

    def __getitem__(self, index: int) -> Sample:
        rows = self.rows(index)
        path = self.images / self.file_names[index]
        image = read_image(path)
        if (wrong := _wrong_size(image, self.sizes_hw[index])) is not None:
            raise ValueError(f"{path}: image {self.image_ids[index]}: width, height: {wrong}")
        return Sample(
            image=image,
            boxes=self.boxes[rows].clone(),
            labels=self.labels[rows].clone(),
            image_id=self.image_ids[index],
            crowd=self.crowd[rows].clone(),
            annotation_ids=self.annotation_ids[rows].clone(),
            source=self.source,
        )


def check(annotations: str | Path, images: str | Path) -> list[Problem]:
    """Every problem of a COCO JSON file and its images; an empty list means that `CocoFolder` reads it to the end.

    Looks for: JSON and keys missing or of the wrong type; duplicate ids and file names; annotation id 0, which pycocotools can
    never match; unknown categories and images; boxes that are not four finite numbers, have no area, or stand out of their
    image by more than `BOX_TOLERANCE`; image files that are missing, truncated, or (upright) of another size than stated.
    Boxes under a pixel are legal. Every image is decoded, with a progress bar after three seconds.

    Choice: two records for one image file are a problem, since each shows the other's objects as background.

    >>> print(check("no/such.json", "no")[0])
    no/such.json: file: path: no such file
    """
    annotations, images = Path(annotations), Path(images)
    tables, problems = _parse(annotations, images)
    if tables is None:
        return problems
    rows = list(zip(tables["image_ids"], tables["file_names"], tables["sizes_hw"], strict=True))
    for image_id, name, size_hw in tqdm(rows, desc="check", delay=3, leave=False):
        file = images / name
        if not file.is_file():
            continue  # already a problem of the file
        try:
            field, wrong = "width, height", _wrong_size(read_image(file), size_hw)
        except (ValueError, OSError) as error:
            field, wrong = "file_name", str(error).removeprefix(f"{file}: ")
        if wrong is not None:
            problems.append(Problem(str(file), f"image {image_id}", field, wrong))
    return problems


def check_report(annotations: str | Path, images: str | Path) -> tuple[str, int]:
    """What `python -m dealkit data check` prints, and its exit code: every problem on a line, 1 if there are any."""
    problems = check(annotations, images)
    if not problems:
        return f"{annotations}: no problems", 0
    return "\n".join([*map(str, problems), f"{annotations}: problems: {len(problems)}"]), 1


def coco_dict(
    images: Iterable[tuple[str, tuple[int, int], Tensor, Tensor] | tuple[str, tuple[int, int], Tensor, Tensor, Tensor]],
    categories: Sequence[str],
) -> dict[str, Any]:
    """COCO detection data, ready for `json.dump`, with all ids counted from 1.

    Args:
        images: file name, size_hw, boxes (N, 4) xyxy pixels, labels (N,) index into `categories`, optionally crowd (N,) bool.
        categories: names; label 0 becomes category id 1.

    >>> data = coco_dict([("a.png", (6, 8), torch.tensor([[1.0, 2.0, 4.0, 6.0]]), torch.tensor([0]))], ["bolt"])
    >>> data["annotations"]
    [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1.0, 2.0, 3.0, 4.0], 'area': 12.0, 'iscrowd': 0}]
    """
    records, annotations = [], []
    for image_id, (name, (height, width), boxes, labels, *rest) in enumerate(images, 1):
        records.append({"id": image_id, "file_name": name, "width": width, "height": height})
        crowd = rest[0].tolist() if rest else [False] * len(boxes)
        for box, label, is_crowd in zip(box_convert(boxes, "xyxy", "xywh").tolist(), labels.tolist(), crowd, strict=True):
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "bbox": box}
            annotations.append(row | {"area": box[2] * box[3], "iscrowd": int(is_crowd)})
    names = [{"id": i, "name": name} for i, name in enumerate(categories, 1)]
    return {"images": records, "annotations": annotations, "categories": names}


_Add = Callable[[str, str, str], None]


def _parse(annotations: Path, images: Path) -> tuple[Json | None, list[Problem]]:
    """Read and check the JSON file, and that the images exist: what of it is usable, as `CocoFolder` keeps it, with the
    `image_index` of each annotation; None if it is no COCO file at all."""
    problems: list[Problem] = []

    def add(where: str, field: str, message: str) -> None:
        problems.append(Problem(str(annotations), where, field, message))

    data: Any = {}
    try:
        data = json.loads(annotations.read_text(encoding="utf-8-sig"))
        if not isinstance(data, dict):
            add("file", "content", f"expected an object with images, annotations and categories, got a {type(data).__name__}")
    except FileNotFoundError:
        add("file", "path", "no such file")
    except (OSError, ValueError, RecursionError) as error:
        add("file", "content", f"not JSON: {error}")
    for key in ("images", "annotations", "categories") if not problems else ():
        if not isinstance(data.get(key), list):
            add("file", key, "missing" if key not in data else f"expected a list, got a {type(data[key]).__name__}")
    if problems:
        return None, problems
    if not images.is_dir():
        problems.append(Problem(str(images), "file", "path", "no such folder of images"))

    categories: dict[int, str] = {}
    for where, category_id, row in _rows(data["categories"], "categories", "category", add):
        if not isinstance(row.get("name"), str):
            add(where, "name", f"expected text, got {row.get('name')!r}")
        categories[category_id] = str(row.get("name"))
    label_of = {category_id: label for label, category_id in enumerate(sorted(categories))}
    index_of, names, sizes = _parse_images(data["images"], images, add)
    known_images = {row["id"] for row in data["images"] if isinstance(row, dict) and _is_whole(row.get("id"))}

    types = {"boxes": torch.float32, "labels": torch.int64, "crowd": torch.bool}
    types |= dict.fromkeys(("annotation_ids", "image_index"), torch.int64)
    columns: dict[str, list[Any]] = {name: [] for name in types}
    for where, annotation_id, row in _rows(data["annotations"], "annotations", "annotation", add):
        if annotation_id == 0:
            add(where, "id", "0 can never be matched by pycocotools, expected ids from 1")
        image_id, category_id = row.get("image_id"), row.get("category_id")
        image = index_of.get(image_id) if _is_whole(image_id) else None
        label = label_of.get(category_id) if _is_whole(category_id) else None
        if label is None:
            add(where, "category_id", f"unknown category {category_id!r}" if "category_id" in row else "missing")
        if image is None and not (_is_whole(image_id) and image_id in known_images):
            add(where, "image_id", f"unknown image {image_id!r}" if "image_id" in row else "missing")
        box, wrong = _parse_box(row, sizes[image] if image is not None else None)
        if wrong is not None:
            add(where, "bbox", wrong)
        for field in ("iscrowd", "ignore"):
            if row.get(field, 0) not in (0, 1):
                add(where, field, f"expected 0 or 1, got {row[field]!r}")
        if "area" in row and not (_is_number(row["area"]) and row["area"] >= 0):
            add(where, "area", f"expected a finite number from 0, got {row['area']!r}")
        if box is not None and image is not None and label is not None:
            is_crowd = row.get("iscrowd", 0) == 1 or row.get("ignore", 0) == 1
            for name, value in zip(types, (box, label, is_crowd, annotation_id, image), strict=True):
                columns[name].append(value)
    tables: Json = {name: torch.tensor(columns[name], dtype=types[name]) for name in types}
    tables["boxes"] = tables["boxes"].reshape(-1, 4)
    tables |= {"categories": sorted(categories.items()), "image_ids": list(index_of), "file_names": names, "sizes_hw": sizes}
    return tables, problems


def _parse_images(rows: list[Any], folder: Path, add: _Add) -> tuple[dict[int, int], list[str], list[tuple[int, int]]]:
    """Index by image id, file names and sizes_hw of the records that are sound."""
    index_of, owner, names, sizes = {}, {}, [], []
    for where, image_id, row in _rows(rows, "images", "image", add):
        name, size = row.get("file_name"), (row.get("height"), row.get("width"))
        wrong = [field for field in ("height", "width") if not (_is_whole(row.get(field)) and row[field] > 0)]
        for field in wrong:
            add(where, field, f"expected a positive integer, got {row[field]!r}" if field in row else "missing")
        if not (isinstance(name, str) and name and "\0" not in name):
            add(where, "file_name", f"expected text, got {name!r}" if "file_name" in row else "missing")
            continue
        if name in owner:
            add(where, "file_name", f"{name} is already the file of image {owner[name]}")
        owner.setdefault(name, image_id)
        if not (folder / name).is_file():
            add(where, "file_name", f"no such file: {folder / name}")
        if not wrong:
            index_of[image_id] = len(names)
            names.append(name)
            sizes.append(size)
    return index_of, names, sizes


def _rows(rows: list[Any], key: str, kind: str, add: _Add) -> Iterable[tuple[str, int, dict[str, Any]]]:
    """(where, id, record) of the records whose id is an integer seen for the first time; reports the others."""
    seen: set[int] = set()
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            add(f"{key}[{i}]", "record", f"expected an object, got {row!r:.60}")
        elif not _is_whole(row.get("id")):
            add(f"{key}[{i}]", "id", f"expected an integer, got {row['id']!r:.60}" if "id" in row else "missing")
        elif row["id"] in seen:
            add(f"{kind} {row['id']}", "id", f"used more than once, again in {key}[{i}]")
        else:
            seen.add(row["id"])
            yield f"{kind} {row['id']}", row["id"], row


def _parse_box(row: dict[str, Any], size_hw: tuple[int, int] | None) -> tuple[list[float] | None, str | None]:
    """xyxy box cut to the image, or what is wrong with `row["bbox"]`."""
    if "bbox" not in row:
        return None, "missing"
    bbox = row["bbox"]
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(v) for v in bbox)):
        return None, f"expected four finite numbers x, y, width, height, got {bbox!r:.80}"
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        return None, f"expected a positive width and height, got {bbox}"
    if size_hw is None:
        return None, None
    right, bottom = x + width, y + height
    limit_y, limit_x = size_hw
    if min(x, y) < -BOX_TOLERANCE or right > limit_x + BOX_TOLERANCE or bottom > limit_y + BOX_TOLERANCE:
        return None, f"{bbox} is outside the image of {limit_x} x {limit_y} (width x height)"
    box = np.float32([max(x, 0), max(y, 0), min(right, limit_x), min(bottom, limit_y)])
    if box[2] <= box[0] or box[3] <= box[1]:
        return None, f"{bbox} has no area inside the image of {limit_x} x {limit_y} (width x height) in float32"
    return box.tolist(), None


def _is_whole(value: Any) -> bool:
    """An id or size: an integer that float64, in which pycocotools keeps ids, holds exactly."""
    return type(value) is int and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)


def _wrong_size(image: Tensor, size_hw: tuple[int, int]) -> str | None:
    found = (image.shape[1], image.shape[2])
    if found == tuple(size_hw):
        return None
    hint = " (were the boxes drawn before the file's EXIF rotation was applied?)" if found == tuple(size_hw[::-1]) else ""
    return f"stated {size_hw[1]} x {size_hw[0]} (width x height), the file has {found[1]} x {found[0]}{hint}"
