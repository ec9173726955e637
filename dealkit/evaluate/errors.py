"""What kind of mistake every detection and every object is, what each kind costs in AP50, and which categories are confused.

Shapes: `G` objects and `D` detections, in the order of their files; `K` categories, in the order of their ids. Boxes are xywh
pixels of the original image, as in COCO files. The kinds are those of TIDE (arXiv 2008.08115); the matching is COCO's and the
one of `dealkit.evaluate.coco`, so what is `found` here is what AP counts there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dealkit.clicks import clicks_hash
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.evaluate.matching import Array, match_pair, overlaps, per_cent, read_inputs
from dealkit.files import Json

FOUND, MISSED, IGNORED = "found", "missed", "ignored"
TRUE, LOCALISATION, OTHER = "true", "localisation", "other category"
BOTH, DUPLICATE, BACKGROUND = "both", "duplicate", "background"
UNCOUNTED = "not counted"

OBJECT_STATES: dict[str, str] = {
    FOUND: "a detection of its own category has matched it",
    LOCALISATION: "not found; a detection of its own category lies on it, too loosely to match",
    OTHER: "not found; a detection of another category's prompt lies on it",
    MISSED: "no detection concerns it",
    IGNORED: "crowd or marked to be ignored: neither found nor missed",
}
"""What can have become of an object, and when."""

DETECTION_TYPES: dict[str, str] = {
    TRUE: "it has found an object",
    LOCALISATION: "it lies on an object of its category with IoU from the background's threshold to the foreground's",
    OTHER: "it lies on an object of another category",
    DUPLICATE: "it lies on an object of its category that a stronger one has found",
    BOTH: "it lies loosely on an object of another category only",
    BACKGROUND: "it lies on nothing",
    IGNORED: "it lies on an ignored object",
    UNCOUNTED: "under the lowest score or beyond the most detections of a pair",
}
"""What a detection can be, and when; where several fit, the first of this order."""

ERROR_TYPES: tuple[str, ...] = (OTHER, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED)
"""The six kinds of mistake in TIDE's order: Cls, Loc, Both, Dupe, Bkg, Miss."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Errors:
    """The kind of every object and detection, as columns; a row of `objects` is named by its place, -1 is none."""

    objects: dict[str, Array]
    """(G,) each: `annotation_id`, `image_id`, `category_id`; `state` (key of `OBJECT_STATES`); `detection` (row of the
    detection that has found it, or that concerns it most strongly), `iou` and `score` of that one (0 where there is none);
    `clicked`, `prompted` (bool)."""
    detections: dict[str, Array]
    """(D,) each: `image_id`, `category_id`, `score`; `type` (key of `DETECTION_TYPES`); `object` (row of `objects` that it
    concerns) and `iou` with it."""
    categories: list[Json]
    """`{"id", "name"}` of the K categories."""
    request: Json
    """The arguments it was made with: max_dets, min_score, foreground, background, ignore_clicked, clicks (hash)."""

    def columns(self) -> tuple[Array, Array]:
        """Category index of every detection (D,) and object (G,)."""
        index = {row["id"]: k for k, row in enumerate(self.categories)}
        ids = self.detections["category_id"], self.objects["category_id"]
        return tuple(np.array([index[i] for i in part.tolist()], dtype=np.int64) for part in ids)

    def counts(self, min_score: float = 0.0) -> dict[str, int]:
        """Mistakes of each kind among detections of at least `min_score`; `missed` are the objects without any concern."""
        kinds = self.detections["type"][self.detections["score"] >= min_score]
        counts = {kind: int((kinds == kind).sum()) for kind in ERROR_TYPES if kind != MISSED}
        return counts | {MISSED: int((self.objects["state"] == MISSED).sum())}


def find_errors(
    coco: Json | str | Path,
    predictions: list[Json] | str | Path,
    clicks: Json | str | Path | None = None,
    *,
    max_dets: int = 1500,
    min_score: float = 0.0,
    foreground: float = 0.5,
    background: float = 0.1,
    ignore_clicked: bool = False,
) -> Errors:
    """Give every object a state and every detection a type.

    A detection that AP counts as false gets the first type that fits of: localisation, other category, duplicate,
    background, both. An object that is not found has the state of the strongest mistake that lies on it, one of its own
    category first. A true detection stays true although it also lies on an object of another category.

    Args:
        coco, predictions, clicks, max_dets: as in `evaluate`; without clicks all objects count as prompted.
        min_score: detections under this score do not count: what a user would see with this threshold.
        foreground: IoU from which a detection matches an object (TIDE's t_f).
        background: IoU from which a detection concerns an object at all (TIDE's t_b).
        ignore_clicked: clicked objects are neither found nor missed; one of another category's prompt on them is false.

    Raises:
        ValueError: a bad argument, or a row with a missing, unknown or non-finite field; names file, row and field.

    Source: TIDE, arXiv 2008.08115, section 2.

    >>> truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cell"}],
    ...          "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}]}
    >>> found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 4], "score": 0.9}]  # IoU 0.4
    >>> errors = find_errors(truth, found)
    >>> errors.objects["state"].tolist(), errors.detections["type"].tolist()
    (['localisation'], ['localisation'])
    """
    if not 0 < background < foreground <= 1:
        raise ValueError(f"thresholds: expected 0 < background < foreground <= 1, got {background} and {foreground}")
    if ignore_clicked and clicks is None:
        raise ValueError("ignore_clicked: expected a click list, too")
    given = read_inputs(coco, predictions, clicks, max_dets=max_dets)
    objects, every, columns, crowd = given.objects, given.every, given.columns, given.ignored
    found = given.detections.take(np.flatnonzero(given.detections.value >= min_score))
    ignored = crowd | given.clicked if ignore_clicked else crowd
    rows = [given.coco["annotations"][i] for i in objects.source.tolist()]

    kinds = np.full(len(found.pair), BACKGROUND, dtype=object)
    of_object, overlap = np.full(len(kinds), -1), np.zeros(len(kinds))
    for image in np.unique(found.pair // columns).tolist():
        here, there = (slice(*np.searchsorted(r.pair, [image * columns, (image + 1) * columns])) for r in (objects, found))
        own = found.pair[there, None] == objects.pair[None, here]  # (D, G) of the image
        boxes = found.boxes[there], objects.boxes[here]
        iou = np.where(own, overlaps(*boxes, ignored[here]), overlaps(*boxes, crowd[here]))
        kind, which = _judge(iou, own, ignored[here], crowd[here], found.pair[there], foreground, background)
        kinds[there] = kind
        concerned = which >= 0
        of_object[there] = np.where(concerned, here.start + which, -1)
        overlap[there][concerned] = iou[np.flatnonzero(concerned), which[concerned]]

    state, detection = _states(kinds, of_object, found.value, ignored)
    at, back = np.argsort(objects.source), np.argsort(every.source)
    fields = {"annotation_id": "id", "image_id": "image_id", "category_id": "category_id"}
    of_objects = {name: np.array([row[field] for row in rows]) for name, field in fields.items()}
    of_objects |= {"state": state, "clicked": given.clicked, "prompted": given.prompted}
    for key, values, none in (("detection", found.source, -1), ("iou", overlap, 0.0), ("score", found.value, 0.0)):
        of_objects[key] = np.append(values, none)[detection]  # -1 is the last: none
    counted, predictions = np.isin(every.source, found.source), [given.predictions[i] for i in every.source.tolist()]
    of_detections = {key: np.array([row[key] for row in predictions]) for key in ("image_id", "category_id")}
    of_detections |= {
        "score": every.value,
        "type": _put(counted, kinds, UNCOUNTED),
        "object": _put(counted, np.append(objects.source, -1)[of_object], -1),
        "iou": _put(counted, overlap, 0.0),
    }
    request = {"max_dets": max_dets, "min_score": min_score, "foreground": foreground, "background": background}
    request |= {"ignore_clicked": ignore_clicked, "clicks": clicks_hash(given.clicks) if given.clicks is not None else None}
    return Errors(
        objects={key: column[at] for key, column in of_objects.items()},
        detections={key: column[back] for key, column in of_detections.items()},
        categories=given.categories,
        request=request,
    )


def _put(at: Array, values: Array, empty: Any) -> Array:
    """`values` at the places `at` (bool), `empty` elsewhere."""
    made = np.full(len(at), empty, dtype=object if isinstance(empty, str) else type(empty))
    made[at] = values
    return made


def _judge(
    iou: Array, own: Array, ignored: Array, crowd: Array, pair: Array, foreground: float, background: float
) -> tuple[Array, Array]:
    """Type of each detection of an image, and the column of the object that it concerns, or -1.

    Args:
        iou: (D, G). own: (D, G), whether the object is of the detection's category.
        ignored: (G,), by detections of its category. crowd: (G,), by those of other categories.
        pair: (D,), ascending; best score first within each.
    """
    kind, which = np.full(len(iou), BACKGROUND, dtype=object), np.full(len(iou), -1)
    if not iou.shape[1]:
        return kind, which
    status = np.zeros(len(iou), dtype=np.int8)
    for start in np.flatnonzero(np.diff(pair, prepend=-1)).tolist():
        rows = slice(start, int(np.searchsorted(pair, pair[start], side="right")))
        mine = np.flatnonzero(own[start])
        status[rows], column = match_pair(iou[rows][:, mine], ignored[mine], foreground)
        which[rows] = np.where(column >= 0, np.append(mine, -1)[column], -1)
    same, other = np.where(own & ~ignored, iou, 0.0), np.where(own | crowd, 0.0, iou)
    rules = (
        (LOCALISATION, (same.max(1) >= background) & (same.max(1) < foreground), same),
        (OTHER, other.max(1) >= foreground, other),
        (DUPLICATE, same.max(1) >= foreground, same),
        (BOTH, other.max(1) >= background, other),
    )
    left = status == 0
    for name, fits, of in rules:
        chosen = left & fits
        kind[chosen], which[chosen] = name, of[chosen].argmax(1)
        left &= ~fits
    kind[status == 1] = TRUE
    on_ignored = status < 0
    kind[on_ignored] = IGNORED
    which[on_ignored] = np.where(own & ignored, iou, -1.0)[on_ignored].argmax(1)
    return kind, which


def _states(kinds: Array, of_object: Array, score: Array, ignored: Array) -> tuple[Array, Array]:
    """State of each of the G objects, and the row of the detection that it rests on, or -1."""
    state = np.where(ignored, IGNORED, MISSED).astype(object)
    detection = np.full(len(state), -1)
    rising = np.argsort(score, kind="stable")
    for kind, name in ((OTHER, OTHER), (LOCALISATION, LOCALISATION), (TRUE, FOUND)):  # the later overrule the earlier
        rows = rising[(kinds[rising] == kind) & ~np.append(ignored, False)[of_object[rising]]]
        state[of_object[rows]], detection[of_object[rows]] = name, rows
    return state, detection


def confusion_matrix(errors: Errors, min_score: float = DEFAULT_THRESHOLD) -> Array:
    """(K, K + 1) int64: detections of the prompt for a category (row) by the category of the object they lie on (column).

    Only detections of at least `min_score`; to lie on an object is an IoU of at least the foreground's, and the last column
    counts those on none. Duplicates count with the category that they lie on; detections on ignored objects do not count.

    >>> box = {"image_id": 1, "bbox": [0, 0, 10, 10]}
    >>> truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}],
    ...          "annotations": [box | {"id": 1, "category_id": 1}]}
    >>> confusion_matrix(find_errors(truth, [box | {"category_id": c, "score": 0.9} for c in (1, 2)])).tolist()
    [[1, 0, 0], [1, 0, 0]]
    """
    row, of_objects = errors.columns()
    matrix = np.zeros((len(errors.categories), len(errors.categories) + 1), dtype=np.int64)
    kind = errors.detections["type"]
    shown = (errors.detections["score"] >= min_score) & (kind != IGNORED) & (kind != UNCOUNTED)
    lies = np.isin(kind, [TRUE, DUPLICATE, OTHER])
    column = np.where(lies, np.append(of_objects, -1)[errors.detections["object"]], -1)  # -1: the last
    np.add.at(matrix, (row[shown], column[shown]), 1)
    return matrix


RECALLS: Array = np.linspace(0, 1, 101)
"""Where COCO reads the precision."""


def average_precision(score: Array, true: Array, total: int) -> float | None:
    """COCO's AP: the mean over 101 recalls of the best precision at that recall or beyond.

    Args:
        score: (D,) of the detections that count; equal ones keep their order. true: (D,) bool. total: objects; of none, None.

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)  # 1 up to recall 0.5, then 2 / 3
    0.8349...
    """
    if not total:
        return None
    hits = np.cumsum(true[np.argsort(-score, kind="stable")])
    return mean_precision(hits / total, hits / np.arange(1, len(hits) + 1))


def mean_precision(recall: Array, precision: Array) -> float:
    """Mean over `RECALLS` of the best precision at that recall or beyond, 0 where there is none."""
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(recall, RECALLS, side="left")].mean())


def oracle_gains(errors: Errors) -> Json:
    """What AP50 (AP at the foreground's IoU) is, and would be with every mistake of one kind mended, the others left.

    Mended means: of the detections of the kinds `localisation` and `other category` that lie on an object that is not found, the
    strongest finds it, the box moved or given to the object's category, if it is of the kind in question; all others of the
    kind, and `both`, `duplicate`, `background`, are taken away; `missed` objects are not asked for.

    Returns:
        `ap50`, mean over the categories with objects; `without`: kind -> AP50; `gain`: kind -> difference. Also
        `all false positives` (every false detection taken away) and `all misses` (no object asked for that is not found).
        None where there is nothing to score.

    Source: TIDE, section 2.2.
    """
    objects, detections = errors.objects, errors.detections
    kind, of, score = detections["type"], detections["object"], detections["score"]
    counted = (kind != IGNORED) & (kind != UNCOUNTED)
    column, of_objects = errors.columns()
    asked, open_ = objects["state"] != IGNORED, ~np.isin(objects["state"], [IGNORED, FOUND])
    order = np.lexsort((-score, detections["image_id"]))  # ties as in the evaluation: by image, then as they stand in the file

    def score_with(keep: Array, true: Array, column: Array, asked: Array) -> float | None:
        rows = order[keep[order]]
        values = [
            average_precision(score[part], true[part], total)
            for k, total in enumerate(np.bincount(of_objects[asked], minlength=len(errors.categories)).tolist())
            for part in [rows[column[rows] == k]]
        ]
        values = [value for value in values if value is not None]
        return float(np.mean(values)) if values else None

    true = kind == TRUE
    with_: dict[str, float | None] = {}
    rows = np.flatnonzero(np.isin(kind, [OTHER, LOCALISATION]) & np.append(open_, False)[of])
    rows = rows[np.argsort(-score[rows], kind="stable")]
    best = np.zeros(len(kind), dtype=bool)
    best[rows[np.unique(of[rows], return_index=True)[1]]] = True
    moved = np.append(of_objects, 0)[of]
    for name in (OTHER, LOCALISATION):
        mended = best & (kind == name)
        with_[name] = score_with(counted & ((kind != name) | mended), true | mended, np.where(mended, moved, column), asked)
    for name in (BOTH, DUPLICATE, BACKGROUND):
        with_[name] = score_with(counted & (kind != name), true, column, asked)
    with_[MISSED] = score_with(counted, true, column, asked & (objects["state"] != MISSED))
    with_["all false positives"] = score_with(true, true, column, asked)
    with_["all misses"] = score_with(counted, true, column, asked & ~open_)
    base = score_with(counted, true, column, asked)
    gain = {name: None if value is None or base is None else value - base for name, value in with_.items()}
    return {"ap50": base, "without": with_, "gain": gain}


def errors_json(errors: Errors, min_score: float = DEFAULT_THRESHOLD) -> Json:
    """All of it, ready for JSON: `request`, gains, `counts` and `shown` (counts from `min_score` on), `confusion`, and the
    columns of objects and detections (annotation ids in place of rows; None is none)."""
    ids = [*errors.objects["annotation_id"].tolist(), None]
    objects = {key: column.tolist() for key, column in errors.objects.items()}
    objects["detection"] = [None if i < 0 else i for i in objects["detection"]]
    detections = {key: errors.detections[key].tolist() for key in ("type", "iou")}
    detections["annotation_id"] = [ids[i] for i in errors.detections["object"].tolist()]
    return {
        "request": errors.request,
        **oracle_gains(errors),
        "counts": errors.counts(),
        "shown": {"min_score": min_score, **errors.counts(min_score)},
        "states": {name: int((errors.objects["state"] == name).sum()) for name in OBJECT_STATES},
        "confusion": {
            "rows": [row["name"] for row in errors.categories],
            "columns": [*(row["name"] for row in errors.categories), "nothing"],
            "matrix": confusion_matrix(errors, min_score).tolist(),
        },
        "objects": objects,
        "detections": detections,
    }


def errors_text(made: Json) -> str:
    """Tables of `errors_json` to print: kinds of mistakes and what each costs, states of objects, confusions."""

    lines = [f"AP50 {per_cent(made['ap50'])}", f"{'kind':20}{'all':>8}{'shown':>8}{'AP50 without':>14}{'gain':>7}"]
    for kind, value in made["without"].items():
        counts = [f"{made[part][kind]:8}" if kind in made[part] else " " * 8 for part in ("counts", "shown")]
        lines.append(f"{kind:20}{''.join(counts)}{per_cent(value):>14}{per_cent(made['gain'][kind]):>7}")
    lines.append("objects: " + ", ".join(f"{count} {state}" for state, count in made["states"].items() if count))
    rows, columns, matrix = (made["confusion"][key] for key in ("rows", "columns", "matrix"))
    if 1 < len(rows) <= 12:
        width = max(len(name) for name in columns) + 2
        lines.append("clicked (row) x what the detections lie on (column), shown detections")
        lines.append(" " * width + "".join(f"{name:>{width}}" for name in columns))
        lines += [f"{name:{width}}" + "".join(f"{n:{width}}" for n in row) for name, row in zip(rows, matrix, strict=True)]
    return "\n".join(lines)
