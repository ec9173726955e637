"""COCO scores of predictions under the click protocol: all objects, the clicked ones ignored, and the hit rate.

Shapes: `K` categories; `G` objects and `D` detections, of one image and category where a function says so. A *pair* is
one image and category. Boxes are xywh pixels of the original image, as in COCO files.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from dealkit.boxes import SIZE_BINS
from dealkit.clicks import check_clicks, clicks_hash, make_clicks
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.evaluate.matching import Array, Rows, index_ids, match_pair, read_detections, read_objects
from dealkit.files import Json, read_json

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
        coco: ground truth, or the path of its file.
        predictions: COCO results, `{"image_id", "category_id", "bbox" (xywh), "score"}` each, or the path of their file.
        clicks: click list as `make_clicks` gives it, or the path of its file; without it `clicked_ignored`, `hit` and
            `hit_shown` are None.
        max_dets: the best detections of a pair that count; COCO's 100 is too few for dense scenes.
        class_agnostic: all annotations and predictions become one category. Predictions of several categories on one
            object are not merged: all but one are false. A pair is then an image, also for `max_dets` and `hit`.
        score_threshold: what counts as shown, for `hit_shown` and the counting error.
        size_bins: smallest and largest area of each bin, square pixels.

    Returns:
        A dict ready for JSON; shares are 0 to 1, and None where there is nothing to score, never NaN or -1.
        `protocol`: the arguments, click list (`setting`, `kind`, `seed`, `clicks` hash), size bins, evaluator.
        `counts`: images, objects, ignored, predictions, over_max_dets, prompts, clicked, objects_without_prompt.
        `all`, `clicked_ignored`: `ap25 ap50 ap75 ap` (IoU 0.25, 0.5, 0.75, mean of 0.5:0.95), `ap50_*` and `ap_*` for
        the bins (vt, t, s, m), `ar` (recall, mean of 0.5:0.95), `recall50`, and `olrp` (lower is better) with its parts.
        `hit`, `hit_shown`. `count`: `mae`, `rmse` of shown detections (without those on ignored regions) against
        objects, over the `pairs` that have either. `per_category`: a list.

    Raises:
        ValueError: a row with a missing, unknown or non-finite field; names file, row and field.

    Source: AI-TOD's bins and `max_dets`; oLRP, arXiv 2011.10772.

    >>> truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cell"}],
    ...          "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}]}
    >>> found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 6], "score": 0.9}]  # IoU 0.6
    >>> scores = evaluate(truth, found)["all"]
    >>> round(scores["ap50"], 3), scores["ap75"], round(scores["ap"], 3)  # IoU 0.5, 0.55, 0.6 of ten
    (1.0, 0.0, 0.3)
    """
    if max_dets < 1:
        raise ValueError(f"max_dets: expected at least 1, got {max_dets}")
    in_truth, in_predictions = (f"{s}: " if isinstance(s, str | Path) else "" for s in (coco, predictions))
    coco, predictions = read_json(coco), read_json(predictions)
    images = index_ids(coco, "images", in_truth)
    categories = index_ids(coco, "categories", in_truth)
    names = {row["id"]: str(row.get("name", row["id"])) for row in coco["categories"]}
    shown_categories = [{"id": i, "name": names[i]} for i in categories]
    if class_agnostic:
        categories, shown_categories = dict.fromkeys(categories, 0), [{"id": None, "name": "all categories as one"}]
    shape = len(images), max(len(shown_categories), 1)
    objects, ignored = read_objects(coco["annotations"], images, categories, shape[1], in_truth)
    every = read_detections(predictions, images, categories, shape[1], in_predictions)
    rank = np.arange(len(every.pair)) - np.searchsorted(every.pair, every.pair)
    detections = every.take(np.flatnonzero(rank < max_dets))

    clicked = prompted = np.zeros(len(objects.pair), dtype=bool)
    click_protocol = dict.fromkeys(("setting", "kind", "seed", "clicks"))
    if clicks is not None:
        clicks = check_clicks(read_json(clicks), coco, name=str(clicks) if isinstance(clicks, str | Path) else "clicks")
        click_protocol = {key: clicks[key] for key in ("setting", "kind", "seed")} | {"clicks": clicks_hash(clicks)}
        rows = [coco["annotations"][i] for i in objects.source.tolist()]
        chosen = {i for prompt in clicks["prompts"] for i in prompt["annotation_ids"]}
        pairs = {(prompt["image_id"], prompt["category_id"]) for prompt in clicks["prompts"]}
        clicked = np.array([row["id"] in chosen for row in rows], dtype=bool)
        prompted = np.array([(row["image_id"], row["category_id"]) in pairs for row in rows], dtype=bool)

    overall, tables, count, hits = _score(objects, ignored, detections, shape, max_dets, score_threshold, size_bins, clicked)
    second: Json | None = None
    second_tables: list[Json] = []
    if clicks is not None:
        rows = (objects, ignored | clicked, detections)
        second, second_tables, _, _ = _score(*rows, shape, max_dets, score_threshold, size_bins, None)
    column = objects.pair % shape[1]
    per_category = []
    for k, category in enumerate(shown_categories):
        row = category | {"objects": int(((column == k) & ~ignored).sum())} | tables[k]
        row["clicked_ignored"] = {key: second_tables[k][key] for key in ("ap50", "ap75")} if clicks is not None else None
        per_category.append(row | {"hit": _share(hits[0][clicked & (column == k)])})
    return {
        "protocol": {
            "max_dets": max_dets,
            "class_agnostic": class_agnostic,
            "score_threshold": score_threshold,
            **click_protocol,
            "size_bins": {name: list(ends) for name, ends in size_bins.items()},
            "evaluator": f"faster-coco-eval {version('faster-coco-eval')}",
        },
        "counts": {
            "images": len(images),
            "objects": int((~ignored).sum()),
            "ignored": int(ignored.sum()),
            "predictions": len(every.pair),
            "over_max_dets": len(every.pair) - len(detections.pair),
            "prompts": len(clicks["prompts"]) if clicks is not None else None,
            "clicked": int(clicked.sum()) if clicks is not None else None,
            "objects_without_prompt": int((~prompted & ~ignored).sum()) if clicks is not None else None,
        },
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

    def per_cent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

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
        size = np.exp(rng.uniform(np.log(4), np.log(40), (objects, 2)))
        boxes = np.concatenate([rng.uniform(0, 1000 - size), size], axis=1)
        found = boxes[rng.integers(objects, size=detections)] if objects else rng.uniform(4, 40, (detections, 4))
        found[:, :2] += rng.normal(0, 0.15, (detections, 2)) * found[:, 2:]
        found[:, 2:] *= np.exp(rng.normal(0, 0.15, (detections, 2)))
        stray = rng.random(detections) < 0.5
        found[stray, :2] = rng.uniform(0, 960, (int(stray.sum()), 2))
        scores = np.clip(rng.normal(np.where(stray, 0.3, 0.6), 0.2), 0, 1)
        for box in boxes.tolist():
            ann = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "bbox": box}
            annotations.append(ann | {"area": box[2] * box[3], "iscrowd": 0})
        for box, score in zip(found.tolist(), scores.tolist(), strict=True):
            predictions.append({"image_id": image_id, "category_id": 1, "bbox": box, "score": score})
    pictures = [{"id": i, "file_name": f"{i}.png", "width": 1000, "height": 1000} for i in range(1, images + 1)]
    coco = {"images": pictures, "categories": [{"id": 1, "name": "object"}], "annotations": annotations}
    return coco, predictions, make_clicks(coco, setting="1/category", seed=seed)


def _run(
    objects: Rows,
    ignored: Array,
    detections: Rows,
    shape: tuple[int, int],
    max_dets: int,
    size_bins: Mapping[str, tuple[float, float]],
) -> COCOeval_faster:
    """COCO's evaluation with all ids counted from 1, because to COCO's matching the id 0 means 'not matched'."""
    frame = {"images": [{"id": i + 1} for i in range(shape[0])], "categories": [{"id": k + 1} for k in range(shape[1])]}
    keys = ("id", "image_id", "category_id", "bbox", "area", "score", "iscrowd")

    def as_coco(of: Rows, area: Array, crowd: Array) -> COCO:
        image, category = np.divmod(of.pair, shape[1])
        columns = image + 1, category + 1, of.boxes, area, of.value, crowd  # the "score" of an object is not read
        rows = zip(range(1, len(area) + 1), *(column.tolist() for column in columns), strict=True)
        return COCO(frame | {"annotations": [dict(zip(keys, row, strict=True)) for row in rows]})

    truth = as_coco(objects, objects.value, ignored.astype(np.int64))
    area = detections.boxes[:, 2] * detections.boxes[:, 3]
    found = as_coco(detections, area, np.zeros(len(area), dtype=np.int64))
    run = COCOeval_faster(truth, found, "bbox", ranges={name: list(ends) for name, ends in size_bins.items()})
    run.params.maxDets, run.params.iouThrs = [max_dets], IOU_THRESHOLDS
    run.evaluate()
    run.accumulate()
    return run


def _score(
    objects: Rows,
    ignored: Array,
    detections: Rows,
    shape: tuple[int, int],
    max_dets: int,
    score_threshold: float,
    size_bins: Mapping[str, tuple[float, float]],
    clicked: Array | None,
) -> tuple[Json, list[Json], Json, tuple[Array, Array]]:
    """Scores over all categories, per category, the counting error, and which of the `clicked` objects are hit, shown."""
    run = _run(objects, ignored, detections, shape, max_dets, size_bins)
    precision, recall = run.eval["precision"][..., 0], run.eval["recall"][..., 0]  # (T, R, K, A), (T, K, A)
    status, overlap = np.zeros(len(detections.pair), dtype=np.int8), np.zeros(len(detections.pair))
    hits = np.zeros(len(objects.pair), dtype=bool), np.zeros(len(objects.pair), dtype=bool)
    shown = detections.value >= score_threshold
    for pair in np.intersect1d(objects.pair, detections.pair).tolist():
        here, found = objects.of(pair), detections.of(pair)
        iou = run.ious[pair // shape[1] + 1, pair % shape[1] + 1]  # (D, G), rows and columns in the order of ours
        status[found], overlap[found], _ = match_pair(iou, ignored[here])
        if clicked is not None and clicked[here].any():
            hits[0][here] = (iou >= 0.5).any(0)
            hits[1][here] = (iou[shown[found]] >= 0.5).any(0)

    scores = {"ap25": precision[_AP25, :, :, 0], "ap50": precision[_AP50, :, :, 0], "ap75": precision[_AP75, :, :, 0]}
    scores["ap"] = precision[_AP, :, :, 0]
    for a, name in enumerate(size_bins, start=1):
        scores |= {f"ap50_{name}": precision[_AP50, :, :, a], f"ap_{name}": precision[_AP, :, :, a]}
    overall: Json = {key: _mean(values) for key, values in scores.items()}
    overall |= {"ar": _mean(recall[_AP, :, 0]), "recall50": _mean(recall[_AP50, :, 0])}

    tables = []
    for k in range(shape[1]):
        table: Json = {key: _mean(scores[key][..., k]) for key in ("ap50", "ap75")}
        of = np.flatnonzero(detections.pair % shape[1] == k)
        total = int(((objects.pair % shape[1] == k) & ~ignored).sum())
        tables.append(table | _olrp(detections.value[of], status[of], overlap[of], total))
    for key in ("olrp", "olrp_loc", "olrp_fp", "olrp_fn"):
        overall[key] = _mean(np.array([t[key] for t in tables if t[key] is not None]))

    pairs = shape[0] * shape[1]
    expected = np.bincount(objects.pair[~ignored], minlength=pairs)
    counted = np.bincount(detections.pair[shown & (status >= 0)], minlength=pairs)
    error = (counted - expected)[(counted > 0) | (expected > 0)].astype(np.float64)
    rmse = float(np.sqrt((error**2).mean())) if len(error) else None
    return overall, tables, {"mae": _mean(abs(error)), "rmse": rmse, "pairs": len(error)}, hits


def _olrp(score: Array, status: Array, overlap: Array, total: int) -> Json:
    """Optimal LRP of one category at IoU 0.5, its parts, and the score at which it is reached.

    LRP = (sum over true of (1 - IoU) / 0.5 + false + missed) / (true + false + missed), the minimum over all cuts.
    """
    keys = ("olrp", "olrp_loc", "olrp_fp", "olrp_fn", "olrp_score")
    if total == 0:
        return dict.fromkeys(keys)
    order = np.argsort(-score, kind="stable")
    order = order[status[order] >= 0]
    true = np.concatenate([[0], np.cumsum(status[order] == 1)])
    false = np.arange(len(order) + 1) - true
    loose = np.concatenate([[0.0], np.cumsum(np.where(status[order] == 1, 1 - overlap[order], 0.0))])
    lrp = (loose / 0.5 + false + total - true) / (false + total)
    cut = np.flatnonzero(np.append(np.diff(score[order]) != 0, [True])) + 1 if len(order) else np.array([], dtype=np.int64)
    cut = np.append(0, cut)  # equal scores fall together; the first cut shows nothing
    best = int(cut[lrp[cut].argmin()])
    parts = float(loose[best] / true[best]) if true[best] else None, float(false[best] / best) if best else 0.0
    missed = float((total - true[best]) / total)
    values = float(lrp[best]), *parts, missed, float(score[order[best - 1]]) if best else None
    return dict(zip(keys, values, strict=True))


def _mean(values: Array) -> float | None:
    """Mean of the entries that exist (COCO writes -1 where there is nothing to score), or None."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _share(found: Array) -> float | None:
    return float(found.mean()) if found.size else None
