"""What each kind of mistake costs in AP50, and the errors of a run as JSON and as printed tables.

Shapes: `G` objects and `D` detections, in the order of their files; `K` categories. The gains are those of TIDE (arXiv
2008.08115).
"""

import numpy as np

from dealkit.config import DEFAULT_THRESHOLD
from dealkit.evaluate.errors import (
    BACKGROUND,
    BOTH,
    DUPLICATE,
    FOUND,
    IGNORED,
    LOCALISATION,
    MISSED,
    OBJECT_STATES,
    OTHER,
    TRUE,
    UNCOUNTED,
    Errors,
    confusion_matrix,
)
from dealkit.evaluate.matching import Array
from dealkit.files import Json

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
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(true[order])
    precision = np.append(np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1], 0.0)
    return float(precision[np.searchsorted(hits / total, RECALLS, side="left")].mean())


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
    images = {name: i for i, name in enumerate(sorted(set(detections["image_id"].tolist())))}
    image = np.array([images[i] for i in detections["image_id"].tolist()], dtype=np.int64)
    index = {row["id"]: k for k, row in enumerate(errors.categories)}
    column = np.array([index[i] for i in detections["category_id"].tolist()], dtype=np.int64)
    of_objects = np.array([index[i] for i in objects["category_id"].tolist()], dtype=np.int64)
    asked, open_ = objects["state"] != IGNORED, ~np.isin(objects["state"], [IGNORED, FOUND])
    order = np.lexsort((-score, image))  # ties as in the evaluation: by image, then as they stand in the file

    def score_with(keep: Array, true: Array, column: Array, asked: Array) -> float | None:
        rows = order[keep[order]]
        values = [
            average_precision(score[part], true[part], total)
            for k, total in enumerate(np.bincount(of_objects[asked], minlength=len(index)).tolist())
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

    def per_cent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

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
