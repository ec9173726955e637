"""From tags and edits in FiftyOne's App back to a COCO file of corrected annotations.

A tag on a label says what is to be done (`TAGS`); boxes that were moved, relabelled, drawn or deleted in the App count, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import box_convert, box_iou

from dealkit.browse.dataset import OBJECTS, by_path, import_fiftyone, labels_by_path, objects_fingerprint
from dealkit.data.annotations import read_coco
from dealkit.data.objects import ObjectTable, read_table
from dealkit.files import Json, write_json

WRONG, MISSING, FIX = "wrong", "missing", "fix"
TAGS: dict[str, str] = {
    WRONG: "on an object: no such object, its annotation goes",
    MISSING: "on a detection: an object that has no annotation, it gets one",
    FIX: "on a detection: the annotation that it concerns gets its box; on an object: to be redrawn, only counted",
}
"""Label tag -> what it says."""

SAME_OBJECT = 0.5
"""IoU from which two boxes tagged `missing`, of two models for instance, are one object."""

MOVED = 0.02
"""Pixels from which a side of a box counts as moved; boxes come back from the database exact to about 0.001."""


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Annotation ids in a COCO file that were changed."""

    removed: tuple[int, ...] = ()
    """Tagged `wrong`, or deleted in the App."""
    moved: tuple[int, ...] = ()
    """With another box: edited in the App, or that of a detection tagged `fix`."""
    relabelled: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    """New: a detection tagged `missing`, or a box drawn in the App."""
    to_redraw: tuple[int, ...] = ()
    """Tagged `fix` and not edited since: left as they are."""

    def __str__(self) -> str:
        names = [field.name for field in fields(self)]
        return ", ".join(f"{len(getattr(self, name))} {name.replace('_', ' ')}" for name in names)


def export_corrections(name: str, file: str | Path, out: str | Path) -> Corrections:
    """Write a COCO file with what was tagged and edited in the FiftyOne data set `name`; see `TAGS`.

    Rows that were not corrected, images, categories and everything else in the file stay as they are, in their order;
    annotation ids stay, new annotations come last with ids above the largest. A row with a new box gets `area` = width x
    height, and loses `segmentation`, which no longer fits; one with a new label gets that `category_id`.

    Args:
        name: data set of `python -m dealkit browse`.
        file: COCO JSON that the data set was built from.
        out: COCO JSON to write.

    Raises:
        ValueError: no such data set, the file or an image has changed since it was built or is not in it, or a label is none of
            the file's categories; says which.
    """
    fo = import_fiftyone()
    if not fo.dataset_exists(name):
        raise ValueError(f"FiftyOne has no data set {name!r}; `python -m dealkit browse` makes one")
    dataset = fo.load_dataset(name)
    table = read_table([file])
    _check_unchanged(dataset, table, str(file))
    parts = [_read_labels(dataset, field, table) for field in (OBJECTS, *dataset.info.get("predictions", []))]
    coco, corrections = correct(read_coco(Path(file)), parts[0], [label for part in parts[1:] for label in part], name=str(file))
    write_json(Path(out), coco)
    return corrections


@dataclass(frozen=True, kw_only=True)
class Label:
    """A box as it stands in FiftyOne."""

    image_id: int
    annotation_id: int | None
    """Of an object: its own, None if it was drawn in the App; of a detection: of the object it concerns, if any."""
    bbox: tuple[float, float, float, float]
    """xywh pixels."""
    label: str
    tags: tuple[str, ...] = ()


def correct(
    coco: Json, objects: Sequence[Label], detections: Sequence[Label] = (), *, name: str = "coco"
) -> tuple[Json, Corrections]:
    """A COCO dict with what `objects` and `detections` say in their tags, boxes and labels, and what has changed in it.

    Args:
        coco: annotations as they were; not changed.
        objects: all objects of its images. detections: of any models; only tagged ones matter.
        name: what errors call the file.

    Raises:
        ValueError: a label that is none or several of the categories, a tag that makes no sense where it is, or a box without
            area in its image; names image and box.

    >>> row = {"id": 7, "image_id": 1, "category_id": 2, "bbox": [10, 20, 4, 6], "area": 24, "iscrowd": 0}
    >>> coco = {"images": [{"id": 1, "width": 50, "height": 50}], "categories": [{"id": 2, "name": "cell"}], "annotations": [row]}
    >>> seen = Label(image_id=1, annotation_id=7, bbox=(10, 20, 4, 6), label="cell", tags=("wrong",))
    >>> found = Label(image_id=1, annotation_id=None, bbox=(30, 30, 5, 4), label="cell", tags=("missing",))
    >>> made, changes = correct(coco, [seen], [found])
    >>> made["annotations"]
    [{'id': 8, 'image_id': 1, 'category_id': 2, 'bbox': [30.0, 30.0, 5.0, 4.0], 'area': 20.0, 'iscrowd': 0}]
    >>> print(changes)
    1 removed, 0 moved, 0 relabelled, 1 added, 0 to redraw
    """
    sizes_wh = {row["id"]: (row["width"], row["height"]) for row in coco["images"]}
    rows = {row["id"]: row for row in coco["annotations"]}
    names = {row["id"]: str(row["name"]) for row in coco["categories"]}
    fixed = _fixes(detections, rows, name)
    kept: dict[int, Json] = {}
    new: list[Label] = []
    moved, relabelled, to_redraw = [], [], []
    for seen in objects:
        if MISSING in seen.tags:
            raise ValueError(f"{_where(name, seen)}: tag {MISSING!r}: expected on a detection, this is an annotated object")
        if WRONG in seen.tags:
            continue
        row = rows.get(seen.annotation_id)
        if row is None or row["id"] in kept:
            new.append(seen)
            continue
        kept[row["id"]] = row
        bbox, size_wh = fixed.get(row["id"], seen).bbox, sizes_wh[seen.image_id]
        if max(abs(a - b) for a, b in zip(_sides(bbox, size_wh), _sides(row["bbox"], size_wh), strict=True)) > MOVED:
            box = _box_row(bbox, size_wh, _where(name, seen))
            kept[row["id"]] = {key: value for key, value in row.items() if key != "segmentation"} | box
            moved.append(row["id"])
        elif FIX in seen.tags:
            to_redraw.append(row["id"])
        if seen.label != names[row["category_id"]]:
            kept[row["id"]] = kept[row["id"]] | {"category_id": _category(seen, names, name)}
            relabelled.append(row["id"])
    new += _distinct([found for found in detections if MISSING in found.tags])
    added = []
    for new_id, seen in enumerate(new, start=max(rows, default=0) + 1):
        row = {"id": new_id, "image_id": seen.image_id, "category_id": _category(seen, names, name)}
        added.append(row | _box_row(seen.bbox, sizes_wh[seen.image_id], _where(name, seen)) | {"iscrowd": 0})
    annotations = [kept[row["id"]] for row in coco["annotations"] if row["id"] in kept]
    return coco | {"annotations": annotations + added}, Corrections(
        removed=tuple(row for row in rows if row not in kept),
        moved=tuple(moved),
        relabelled=tuple(relabelled),
        added=tuple(row["id"] for row in added),
        to_redraw=tuple(to_redraw),
    )


def _fixes(detections: Sequence[Label], rows: dict[int, Json], name: str) -> dict[int, Label]:
    """Annotation id -> the detection whose box it gets."""
    fixed: dict[int, Label] = {}
    for found in detections:
        if FIX not in found.tags:
            continue
        if found.annotation_id not in rows:
            raise ValueError(f"{_where(name, found)}: tag {FIX!r}: it concerns no annotated object; {MISSING!r} makes it one")
        if found.annotation_id in fixed:
            raise ValueError(f"{_where(name, found)}: tag {FIX!r}: another detection has it for the same object, too")
        fixed[found.annotation_id] = found
    return fixed


def _distinct(found: list[Label]) -> list[Label]:
    """Without boxes that are the same object as an earlier one: same image and label, IoU of at least `SAME_OBJECT`."""
    kept: list[Label] = []
    for label in found:
        same = [k.bbox for k in kept if (k.image_id, k.label) == (label.image_id, label.label)]
        boxes = box_convert(torch.tensor([label.bbox, *same], dtype=torch.float64), "xywh", "xyxy")
        if not same or box_iou(boxes[:1], boxes[1:]).max() < SAME_OBJECT:
            kept.append(label)
    return kept


def _sides(bbox: Sequence[float], size_wh: tuple[int, int]) -> list[float]:
    """x1, y1, x2, y2 of the part of a box that lies in its image."""
    x, y, w, h = bbox
    return [max(x, 0.0), max(y, 0.0), min(x + w, size_wh[0]), min(y + h, size_wh[1])]


def _box_row(bbox: Sequence[float], size_wh: tuple[int, int], where: str) -> Json:
    """`bbox` and `area` of the part of a box that lies in its image, rounded to 0.01 pixels."""
    x1, y1, x2, y2 = (round(float(side), 2) for side in _sides(bbox, size_wh))
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"{where}: expected a box with an area inside the image of {size_wh[0]} x {size_wh[1]}")
    w, h = round(x2 - x1, 2), round(y2 - y1, 2)
    return {"bbox": [x1, y1, w, h], "area": round(w * h, 4)}


def _category(seen: Label, names: dict[int, str], name: str) -> int:
    matches = [i for i, category in names.items() if category == seen.label]
    if len(matches) != 1:
        known = ", ".join(sorted(set(names.values())))
        raise ValueError(f"{_where(name, seen)}: label {seen.label!r} names {len(matches)} categories, expected one of {known}")
    return matches[0]


def _where(name: str, seen: Label) -> str:
    return f"{name}: image {seen.image_id}: box {[round(v, 2) for v in seen.bbox]}"


def _check_unchanged(dataset: Any, table: ObjectTable, file: str) -> None:
    """Raise unless every image of the table is in the data set with the boxes of the table."""
    known = by_path(dataset, ["objects_fingerprint"])
    for i, (path, image_id) in enumerate(zip(table.images["path"], table.images["image_id"], strict=True)):
        where = f"{file}: image {image_id}"
        if path not in known:
            raise ValueError(f"{where}: {path} is not in the data set {dataset.name}")
        if known[path]["objects_fingerprint"] != objects_fingerprint(table, i):
            raise ValueError(f"{where}: its annotations are not those that the data set {dataset.name} was made from")


def _read_labels(dataset: Any, field: str, table: ObjectTable) -> list[Label]:
    """All boxes of a field in the images of the table."""
    known = labels_by_path(dataset, field, ("annotation_id", "bounding_box", "label", "tags"))
    labels = []
    for i, path in enumerate(table.images["path"].tolist()):
        image_id, width, height = (int(table.images[key][i]) for key in ("image_id", "width", "height"))
        for annotation_id, (x, y, w, h), label, tags in known[path]:
            bbox = (x * width, y * height, w * width, h * height)
            labels.append(Label(image_id=image_id, annotation_id=annotation_id, bbox=bbox, label=label, tags=tuple(tags or ())))
    return labels
