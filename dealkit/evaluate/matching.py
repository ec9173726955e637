"""Objects, detections and clicks of COCO files as arrays, and COCO's matching of one image and category.

Shapes: `K` categories; `G` objects and `D` detections, of one image and category where a function says so. A *pair* is
one image and category. Boxes are xywh pixels of the original image, as in COCO files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask

from dealkit.clicks import check_clicks
from dealkit.files import Json, read_json

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Objects or detections, sorted by pair, so that each pair is one slice."""

    pair: Array
    """(N,) int64: image index * K + category index."""
    boxes: Array
    """(N, 4) float64 xywh."""
    value: Array
    """(N,) float64: area of an object, score of a detection; detections fall in score within a pair."""
    source: Array
    """(N,) int64: row of the file."""

    def of(self, pair: int) -> slice:
        return slice(*np.searchsorted(self.pair, [pair, pair + 1]).tolist())

    def take(self, rows: Array) -> "Rows":
        return Rows(pair=self.pair[rows], boxes=self.boxes[rows], value=self.value[rows], source=self.source[rows])


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is scored: the files as they were read, and their rows sorted by pair."""

    coco: Json
    predictions: list[Json]
    clicks: Json | None
    categories: list[Json]
    """`{"id", "name"}` of the K categories; one with the id None where all count as one."""
    columns: int
    """K, at least 1."""
    objects: Rows
    every: Rows
    """All detections."""
    detections: Rows
    """The best `max_dets` of each pair."""
    ignored: Array
    """(G,) bool, as `clicked` and `prompted`, in the order of `objects`: crowd or marked to be ignored."""
    clicked: Array
    """Without a click list none."""
    prompted: Array
    """Whether its pair has a prompt; without a click list all."""


def read_inputs(
    coco: Json | str | Path,
    predictions: list[Json] | str | Path,
    clicks: Json | str | Path | None,
    *,
    max_dets: int,
    class_agnostic: bool = False,
) -> Inputs:
    """Ground truth, COCO results and click list, or the paths of their files, checked and as arrays.

    Raises:
        ValueError: `max_dets` under 1, or a row with a missing, unknown or non-finite field; names file, row and field.
    """
    if max_dets < 1:
        raise ValueError(f"max_dets: expected at least 1, got {max_dets}")
    in_truth, in_predictions = (f"{s}: " if isinstance(s, str | Path) else "" for s in (coco, predictions))
    of_clicks = str(clicks) if isinstance(clicks, str | Path) else "clicks"
    coco, predictions = read_json(coco), read_json(predictions)
    images, index = (_index_ids(coco, key, in_truth) for key in ("images", "categories"))
    names = {row["id"]: str(row.get("name", row["id"])) for row in coco["categories"]}
    categories = [{"id": i, "name": names[i]} for i in index]
    if class_agnostic:
        index, categories = dict.fromkeys(index, 0), [{"id": None, "name": "all categories as one"}]
    columns = max(len(categories), 1)
    objects, ignored = _read_objects(coco["annotations"], images, index, columns, in_truth)
    every = _read_detections(predictions, images, index, columns, in_predictions)
    rank = np.arange(len(every.pair)) - np.searchsorted(every.pair, every.pair)
    clicks = None if clicks is None else check_clicks(read_json(clicks), coco, name=of_clicks)
    prompts, rows = clicks["prompts"] if clicks else [], [coco["annotations"][i] for i in objects.source.tolist()]
    chosen = {i for prompt in prompts for i in prompt["annotation_ids"]}
    pairs = {(prompt["image_id"], prompt["category_id"]) for prompt in prompts}
    return Inputs(
        coco=coco,
        predictions=predictions,
        clicks=clicks,
        categories=categories,
        columns=columns,
        objects=objects,
        every=every,
        detections=every.take(np.flatnonzero(rank < max_dets)),
        ignored=ignored,
        clicked=np.array([row["id"] in chosen for row in rows], dtype=bool),
        prompted=np.array([clicks is None or (row["image_id"], row["category_id"]) in pairs for row in rows], dtype=bool),
    )


def _index_ids(coco: Json, key: str, where: str) -> dict[int, int]:
    """Position of each id of `images` or `categories` in their sorted order."""
    if not isinstance(coco, dict) or not all(isinstance(coco.get(k), list) for k in ("images", "categories", "annotations")):
        raise ValueError(f"{where or 'coco: '}expected an object with the lists images, categories and annotations")
    ids = [row["id"] for row in coco[key]]
    index = {value: i for i, value in enumerate(sorted(ids))}
    if len(index) != len(ids):
        raise ValueError(f"{where}{key}: id {max(ids, key=ids.count)} is used twice")
    return index


def _column(rows: list[Any], field: str, name: str, form: str, read: Callable[[list[Any]], Array]) -> Array:
    """`read` of the field of all rows at once; an error names the first row that it cannot read."""
    try:
        return read([row[field] for row in rows])
    except (KeyError, TypeError, ValueError):
        for i, row in enumerate(rows):
            try:
                read([row[field]])
            except (KeyError, TypeError, ValueError):
                got = row.get(field) if isinstance(row, dict) else row
                raise ValueError(f"{name}[{i}].{field}: expected {form}, got {got!r}") from None
        raise


def _finite(values: list[Any], *width: int) -> Array:
    """(N, *width) float64; a `ValueError` says no more than that something is amiss."""
    array = np.array(values, dtype=np.float64)
    if len(values) and array.shape != (len(values), *width) or not np.isfinite(array).all():
        raise ValueError
    return array.reshape(len(values), *width)


def _read_rows(
    rows: list[Any], images: dict[int, int], categories: dict[int, int], columns: int, name: str
) -> tuple[Array, Array]:
    """Pair (N,) and box (N, 4) of each row, in the order of the file."""
    image, category = (
        _column(rows, field, name, "an id of the ground truth", lambda ids, known=known: np.array([known[i] for i in ids], int))
        for field, known in (("image_id", images), ("category_id", categories))
    )
    return image * columns + category, _column(rows, "bbox", name, "finite [x, y, w, h]", lambda boxes: _finite(boxes, 4))


def _refuse(bad: Array, boxes: Array, name: str, form: str) -> None:
    """Raise ValueError for the first bad box (N,), if any."""
    for i in np.flatnonzero(bad)[:1]:
        raise ValueError(f"{name}[{i}].bbox: expected [x, y, w, h] with {form}, got {boxes[i].tolist()}")


def _read_objects(
    rows: list[Json], images: dict[int, int], categories: dict[int, int], columns: int, where: str
) -> tuple[Rows, Array]:
    """Objects, and (G,) bool: which are crowd or ignored. The order of the file is kept within a pair."""
    name = f"{where}annotations"
    pair, boxes = _read_rows(rows, images, categories, columns, name)
    ignored = np.array([bool(row.get("iscrowd") or row.get("ignore")) for row in rows], dtype=bool)
    _refuse(~ignored & (boxes[:, 2:] <= 0).any(1), boxes, name, "positive width and height")
    sizes = [{"area": row.get("area", box[2] * box[3])} for row, box in zip(rows, boxes.tolist(), strict=True)]
    area, order = _column(sizes, "area", name, "a finite number", _finite), np.argsort(pair, kind="stable")
    return Rows(pair=pair, boxes=boxes, value=area, source=np.arange(len(rows))).take(order), ignored[order]


def _read_detections(rows: list[Json], images: dict[int, int], categories: dict[int, int], columns: int, where: str) -> Rows:
    """Detections, the highest score of each pair first, equal ones in the order of the file."""
    if not isinstance(rows, list):
        raise ValueError(f"{where or 'predictions: '}expected a list of COCO results, got {type(rows).__name__}")
    name = f"{where}predictions"
    pair, boxes = _read_rows(rows, images, categories, columns, name)
    _refuse((boxes[:, 2:] < 0).any(1), boxes, name, "w, h >= 0")
    score = _column(rows, "score", name, "a finite number", _finite)
    return Rows(pair=pair, boxes=boxes, value=score, source=np.arange(len(rows))).take(np.lexsort((-score, pair)))


def per_cent(value: float | None, digits: int = 1) -> str:
    """A share in per cent, a dash for None and NaN.

    >>> per_cent(0.125), per_cent(None)
    ('12.5', '–')
    """
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}"


def overlaps(detections: Array, objects: Array, ignored: Array) -> Array:
    """(D, G) IoU of xywh boxes as COCO computes it: over the detection's area alone for `ignored` (G,) objects."""
    return mask.bbox_iou(detections, objects, ignored)


def match_pair(iou: Array, ignored: Array, threshold: float = 0.5) -> tuple[Array, Array, Array]:
    """COCO's greedy matching of one pair.

    Args:
        iou: (D, G), best score first; intersection over detection area in the columns that `ignored` (G,) marks.

    Returns:
        (D,) int8: 1 true, 0 false, -1 on an ignored region; (D,) column of the object that a true one has found, else -1.

    >>> status, column = match_pair(np.array([[0.6, 0.7], [0.6, 0.8], [0.1, 0.9]]), np.zeros(2, dtype=bool))
    >>> status.tolist(), column.tolist()
    ([1, 1, 0], [1, 0, -1])
    """
    status, column = np.zeros(len(iou), dtype=np.int8), np.full(len(iou), -1)
    free = np.flatnonzero(~ignored)
    real = np.where(iou[:, free] >= threshold, iou[:, free], 0.0)
    for row in np.flatnonzero(real.any(1)):
        best = real.shape[1] - 1 - real[row, ::-1].argmax()  # of equal ones COCO takes the last
        if real[row, best]:
            status[row], column[row] = 1, free[best]
            real[row + 1 :, best] = 0.0
    status[(status == 0) & (iou[:, ignored] >= threshold).any(1)] = -1
    return status, column
