"""COCO scores of predictions under the click protocol: all objects, the clicked ones ignored, and the hit rate.

Shapes: `K` categories; `G` objects and `D` detections, of one image and category where a function says so. A *pair* is
one image and category. Boxes are xywh pixels of the original image, as in COCO files.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from hotcoco import COCO, COCOeval

from dealkit.boxes import SIZE_BINS
from dealkit.clicks import clicks_hash, make_clicks
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.evaluate.matching import Array, Inputs, match_pair, overlaps, per_cent, read_inputs
from dealkit.files import Json

IOU_THRESHOLDS: Array = np.array([0.25, *np.linspace(0.5, 0.95, 10)])
"""The first serves `ap25` alone; each is matched apart, so `ap` is the mean over the other ten, as ever."""

_AP25, _AP50, _AP75, _AP = 0, 1, 6, slice(1, None)


def evaluate(
    coco: Json | str | Path,
    predictions: list[Json] | str | Path,
    clicks: Json | str | Path | None = None,
    *,
    max_dets: int = 1500,
    class_agnostic: bool = False,
    score_threshold: float = DEFAULT_THRESHOLD,
    size_bins: Mapping[str, tuple[float, float]] = SIZE_BINS,
) -> Json:
    """Score predictions against COCO ground truth; with a click list, in the three numbers of the protocol.

    1. `all`: every object counts, clicked or not.
    2. `clicked_ignored`: the clicked objects get `iscrowd=1`, so they are neither found nor missed. As for any crowd
       annotation the overlap with them is then intersection over *detection* area, and any number of detections may
       match one: a duplicate on a clicked object, or a box inside it, costs nothing here (it does in `all`).
    3. `hit`: share of the clicked objects that any detection of their pair (the best `max_dets`) covers at IoU 0.5;
       `hit_shown`: the same among detections of at least `score_threshold`.

    All pairs of the ground truth are scored: objects of a pair without prompt count as missed
    (`counts.objects_without_prompt` says how many) and predictions for a category that an image lacks as false.
    Annotations with `iscrowd` or `ignore` are crowd. A missing `area` is width times height; size bins include both ends.

    Args:
        coco, predictions, clicks: ground truth, COCO results and a click list of `make_clicks`, or the paths of their files;
            without clicks `clicked_ignored`, `hit` and `hit_shown` are None.
        max_dets: the best detections of a pair that count; COCO's 100 is too few for dense scenes.
        class_agnostic: all become one category, and a pair is an image. Predictions of several categories are not merged.
        score_threshold: what counts as shown, for `hit_shown` and the counting error.
        size_bins: smallest and largest area of each bin, square pixels.

    Returns:
        A dict ready for JSON; shares are 0 to 1, and None where there is nothing to score, never NaN or -1.
        `protocol`: the arguments, click list (`setting`, `kind`, `seed`, `clicks` hash), size bins, evaluator.
        `counts`: images, objects, ignored, predictions, over_max_dets, prompts, clicked, objects_without_prompt.
        `all`, `clicked_ignored`: `ap25 ap50 ap75 ap` (IoU 0.25, 0.5, 0.75, mean of 0.5:0.95), `ap50_*` and `ap_*` for
        the bins (vt, t, s, m), `ar` (recall, mean of 0.5:0.95), `recall50`.
        `hit`, `hit_shown`. `count`: `mae`, `rmse` of shown detections (without those on ignored regions) against
        objects, over the `pairs` that have either. `per_category`: a list.

    Raises:
        ValueError: a row with a missing, unknown or non-finite field; names file, row and field.

    Source: AI-TOD's bins and `max_dets`.

    >>> truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cell"}],
    ...          "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}]}
    >>> found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 6], "score": 0.9}]  # IoU 0.6
    >>> scores = evaluate(truth, found)["all"]
    >>> round(scores["ap50"], 3), scores["ap75"], round(scores["ap"], 3)  # IoU 0.5, 0.55, 0.6 of ten
    (1.0, 0.0, 0.3)
    """
    given = read_inputs(coco, predictions, clicks, max_dets=max_dets, class_agnostic=class_agnostic)
    ignored, clicked, clicks = given.ignored, given.clicked, given.clicks
    protocol = dict.fromkeys(("setting", "kind", "seed", "clicks"))
    options = {"max_dets": max_dets, "score_threshold": score_threshold, "size_bins": size_bins}
    overall, tables, count, hits = _score(given, ignored, **options)
    second: Json | None = None
    second_tables: list[Json] = [{}] * len(tables)
    if clicks is not None:
        protocol = {key: clicks[key] for key in ("setting", "kind", "seed")} | {"clicks": clicks_hash(clicks)}
        second, second_tables, _, _ = _score(given, ignored | clicked, **options)
    column, per_category = given.objects.pair % given.columns, []
    for k, category in enumerate(given.categories):
        row = category | {"objects": int(((column == k) & ~ignored).sum())} | tables[k]
        row["clicked_ignored"] = {key: second_tables[k][key] for key in ("ap50", "ap75")} if second else None
        per_category.append(row | {"hit": _share(hits[0][clicked & (column == k)])})
    counts = {
        "images": len(given.coco["images"]),
        "objects": int((~ignored).sum()),
        "ignored": int(ignored.sum()),
        "predictions": len(given.every.pair),
        "over_max_dets": len(given.every.pair) - len(given.detections.pair),
        **dict.fromkeys(("prompts", "clicked", "objects_without_prompt")),
    }
    if clicks is not None:
        counts |= {"prompts": len(clicks["prompts"]), "clicked": int(clicked.sum())}
        counts["objects_without_prompt"] = int((~given.prompted & ~ignored).sum())
    about = {"max_dets": max_dets, "class_agnostic": class_agnostic, "score_threshold": score_threshold}
    bins = {name: list(ends) for name, ends in size_bins.items()}
    return {
        "protocol": {**about, **protocol, "size_bins": bins, "evaluator": f"hotcoco {version('hotcoco')}"},
        "counts": counts,
        "all": overall,
        "clicked_ignored": second,
        "hit": _share(hits[0][clicked]),
        "hit_shown": _share(hits[1][clicked]),
        "count": count,
        "per_category": per_category,
    }


def summary_line(results: Json) -> str:
    """One line to print: the three numbers in per cent, and the protocol that they hold for."""
    protocol, ignored = results["protocol"], results["clicked_ignored"] or {}
    keys = ("ap25", "ap50", "ap75", "ap")
    scores = " ".join(f"{key.upper()} {per_cent(results['all'][key])} ({per_cent(ignored.get(key))})" for key in keys)
    hits = f"hit {per_cent(results['hit'])}, shown {per_cent(results['hit_shown'])}"
    clicks = "no clicks"
    if protocol["clicks"]:
        clicks = f"{protocol['setting']} {protocol['kind']} seed {protocol['seed']} clicks {protocol['clicks']}"
    classes = "class-agnostic" if protocol["class_agnostic"] else "per category"
    return f"{scores} (clicked ignored) {hits} | max_dets {protocol['max_dets']}, {classes}, {clicks}"


def dense_case(images: int = 60, objects: int = 250, detections: int = 1000, seed: int = 0) -> tuple[Json, list[Json], Json]:
    """A made scene set to time or test the evaluator with: `(coco, predictions, clicks)`, one category.

    Objects are 4 to 40 px in images of 1000 x 1000 px; half of the detections are shifted objects, half are anywhere.

    >>> coco, predictions, clicks = dense_case(images=2, objects=3, detections=4)
    >>> len(coco["annotations"]), len(predictions), len(clicks["prompts"])
    (6, 8, 2)
    """
    rng = np.random.default_rng(seed)
    annotations, predictions = [], []
    for image_id in range(1, images + 1):
        of = {"image_id": image_id, "category_id": 1}
        size = np.exp(rng.uniform(np.log(4), np.log(40), (objects, 2)))
        boxes = np.concatenate([rng.uniform(0, 1000 - size), size], axis=1)
        found = boxes[rng.integers(objects, size=detections)] if objects else rng.uniform(4, 40, (detections, 4))
        found[:, :2] += rng.normal(0, 0.15, (detections, 2)) * found[:, 2:]
        found[:, 2:] *= np.exp(rng.normal(0, 0.15, (detections, 2)))
        stray = rng.random(detections) < 0.5
        found[stray, :2] = rng.uniform(0, 960, (int(stray.sum()), 2))
        scores = np.clip(rng.normal(np.where(stray, 0.3, 0.6), 0.2), 0, 1)
        annotations += [of | {"id": len(annotations) + i, "bbox": box} for i, box in enumerate(boxes.tolist(), start=1)]
        predictions += [of | {"bbox": b, "score": s} for b, s in zip(found.tolist(), scores.tolist(), strict=True)]
    pictures = [{"id": i, "file_name": f"{i}.png", "width": 1000, "height": 1000} for i in range(1, images + 1)]
    coco = {"images": pictures, "categories": [{"id": 1, "name": "object"}], "annotations": annotations}
    return coco, predictions, make_clicks(coco, setting="1/category", seed=seed)


def _curves(given: Inputs, ignored: Array, max_dets: int, size_bins: Mapping[str, tuple[float, float]]) -> tuple[Array, Array]:
    """COCO's precision (T, R, K, A) and recall (T, K, A) at the T `IOU_THRESHOLDS`; of the A areas the first is all."""
    objects, detections = given.objects, given.detections
    images = [{"id": i + 1} for i in range(len(given.coco["images"]))]
    categories = [{"id": k + 1, "name": str(k)} for k in range(given.columns)]
    image, category = np.divmod(objects.pair, given.columns)
    truth = COCO.from_arrays(images, categories, image + 1, category + 1, objects.boxes, area=objects.value, iscrowd=ignored)
    image, category = np.divmod(detections.pair, given.columns)
    found = truth.load_res(np.column_stack([image + 1, detections.boxes, detections.value, category + 1]))
    run = COCOeval(truth, found, "bbox")
    run.params.max_dets, run.params.iou_thrs = [max_dets], IOU_THRESHOLDS.tolist()
    run.params.area_rng = [[0.0, 1e10], *(list(ends) for ends in size_bins.values())]
    run.params.area_rng_lbl = ["all", *size_bins]
    run.evaluate()
    run.accumulate()
    return run.eval["precision"][..., 0], run.eval["recall"][..., 0]


def _score(
    given: Inputs, ignored: Array, *, max_dets: int, score_threshold: float, size_bins: Mapping[str, tuple[float, float]]
) -> tuple[Json, list[Json], Json, tuple[Array, Array]]:
    """Scores over all categories, per category, the counting error, and which objects are hit, shown (bool, (G,) each)."""
    objects, detections, columns = given.objects, given.detections, given.columns
    precision, recall = _curves(given, ignored, max_dets, size_bins)
    status = np.zeros(len(detections.pair), dtype=np.int8)
    hits = np.zeros(len(objects.pair), dtype=bool), np.zeros(len(objects.pair), dtype=bool)
    shown = detections.value >= score_threshold
    for pair in np.intersect1d(objects.pair, detections.pair).tolist():
        here, found = objects.of(pair), detections.of(pair)
        iou = overlaps(detections.boxes[found], objects.boxes[here], ignored[here])
        status[found], _ = match_pair(iou, ignored[here])
        hits[0][here] = (iou >= 0.5).any(0)
        hits[1][here] = (iou[shown[found]] >= 0.5).any(0)

    scores = {"ap25": precision[_AP25, :, :, 0], "ap50": precision[_AP50, :, :, 0], "ap75": precision[_AP75, :, :, 0]}
    scores["ap"] = precision[_AP, :, :, 0]
    for a, name in enumerate(size_bins, start=1):
        scores |= {f"ap50_{name}": precision[_AP50, :, :, a], f"ap_{name}": precision[_AP, :, :, a]}
    overall: Json = {key: _mean(values) for key, values in scores.items()}
    overall |= {"ar": _mean(recall[_AP, :, 0]), "recall50": _mean(recall[_AP50, :, 0])}

    tables = [{key: _mean(scores[key][..., k]) for key in ("ap50", "ap75")} for k in range(columns)]
    pairs = len(given.coco["images"]) * columns
    expected = np.bincount(objects.pair[~ignored], minlength=pairs)
    counted = np.bincount(detections.pair[shown & (status >= 0)], minlength=pairs)
    error = (counted - expected)[(counted > 0) | (expected > 0)].astype(np.float64)
    rmse = float(np.sqrt((error**2).mean())) if len(error) else None
    return overall, tables, {"mae": _mean(abs(error)), "rmse": rmse, "pairs": len(error)}, hits


def _mean(values: Array) -> float | None:
    """Mean of the entries that exist (COCO writes -1 where there is nothing to score), or None."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _share(found: Array) -> float | None:
    return float(found.mean()) if found.size else None
