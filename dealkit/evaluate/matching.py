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
from dealkit.data.annotations import is_number, is_whole, read_coco
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
    of_clicks = str(clicks) if isinstance(clicks, str | Path) else "clicks"
    in_predictions = f"{predictions}: " if isinstance(predictions, str | Path) else ""
    coco, predictions = read_coco(coco), read_json(predictions)
    images, index = ({i: k for k, i in enumerate(sorted(row["id"] for row in coco[key]))} for key in ("images", "categories"))
    names = {row["id"]: str(row.get("name", row["id"])) for row in coco["categories"]}
    categories = [{"id": i, "name": names[i]} for i in index]
    if class_agnostic:
        index, categories = dict.fromkeys(index, 0), [{"id": None, "name": "all categories as one"}]
    columns = max(len(categories), 1)
    objects, ignored = _read_objects(coco["annotations"], images, index, columns)
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


def _read_objects(rows: list[Json], images: dict[int, int], categories: dict[int, int], columns: int) -> tuple[Rows, Array]:
    """Objects of `read_coco`, and (G,) bool: which are crowd or ignored. The order of the file is kept within a pair."""
    pair = np.array([images[row["image_id"]] * columns + categories[row["category_id"]] for row in rows], dtype=np.int64)
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    area = np.array([row.get("area", box[2] * box[3]) for row, box in zip(rows, boxes.tolist(), strict=True)], dtype=np.float64)
    ignored = np.array([bool(row.get("iscrowd") or row.get("ignore")) for row in rows], dtype=bool)
    order = np.argsort(pair, kind="stable")
    return Rows(pair=pair, boxes=boxes, value=area, source=np.arange(len(rows))).take(order), ignored[order]


def _read_detections(rows: Any, images: dict[int, int], categories: dict[int, int], columns: int, where: str) -> Rows:
    """Detections, the highest score of each pair first, equal ones in the order of the file."""
    if not isinstance(rows, list):
        raise ValueError(f"{where or 'predictions: '}expected a list of COCO results, got {type(rows).__name__}")
    name = f"{where}predictions"
    image = _column(rows, "image_id", name, "an id of the ground truth", lambda v: is_whole(v) and v in images)
    category = _column(rows, "category_id", name, "an id of the ground truth", lambda v: is_whole(v) and v in categories)
    boxes = _column(rows, "bbox", name, "[x, y, w, h], finite, with w, h >= 0", _is_box)
    score = np.array(_column(rows, "score", name, "a finite number", is_number), dtype=np.float64)
    pair = np.array([images[i] * columns + categories[k] for i, k in zip(image, category, strict=True)], dtype=np.int64)
    found = Rows(pair=pair, boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4), value=score, source=np.arange(len(rows)))
    return found.take(np.lexsort((-score, pair)))


def _is_box(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(is_number, value)) and min(value[2:]) >= 0


def _column(rows: list[Any], field: str, name: str, form: str, sound: Callable[[Any], bool]) -> list[Any]:
    """The field of all rows; an error names the first row in which it is not sound."""
    for i, row in enumerate(rows):
        if not (isinstance(row, dict) and sound(row.get(field))):
            got = row if not isinstance(row, dict) else row.get(field)
            raise ValueError(f"{name}[{i}].{field}: expected {form}, got {got!r:.80}")
    return [row[field] for row in rows]


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
