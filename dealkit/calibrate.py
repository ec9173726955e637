"""The default score threshold and duplicate IoU of a checkpoint, chosen on training images, never on validation ones."""

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou, nms
from tqdm.auto import tqdm

from dealkit.data.coco import CocoFolder
from dealkit.evaluate import evaluate
from dealkit.predict import predict_coco
from dealkit.prompts import make_clicks, read_json
from dealkit.train import load_model, provenance, write_json

Json = dict[str, Any]
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 17))
OVERLAPS = (1.0, 0.8, 0.7, 0.6, 0.5)


def by_pair(rows: list[Json]) -> dict[tuple[int, int], list[int]]:
    """Indices of COCO rows for every (image id, category id)."""
    pairs: dict[tuple[int, int], list[int]] = {}
    for i, row in enumerate(rows):
        pairs.setdefault((row["image_id"], row["category_id"]), []).append(i)
    return pairs


def xyxy(rows: list[Json]) -> torch.Tensor:
    """(N, 4) float32 xyxy of COCO rows."""
    return box_convert(torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4), "xywh", "xyxy")


def without_duplicates(found: list[Json], overlap: float) -> list[Json]:
    """COCO results after non-maximum suppression within each image and category."""
    kept: list[Json] = []
    for rows in by_pair(found).values():
        part = [found[i] for i in rows]
        kept += [part[i] for i in nms(xyxy(part), torch.tensor([r["score"] for r in part]), overlap).tolist()]
    return kept


def f1_curve(truth: list[Json], found: list[Json], thresholds: tuple[float, ...] = THRESHOLDS) -> list[float]:
    """F1 at IoU 0.5 of all detections at or above each threshold, matched strongest first, each object once.

    >>> truth = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}]
    >>> found = [{**truth[0], "score": 0.9}, {**truth[0], "bbox": [20, 20, 5, 5], "score": 0.4}]
    >>> [round(f, 2) for f in f1_curve(truth, found, (0.1, 0.5))]  # precision 1/2, then 1
    [0.67, 1.0]
    """
    objects, scores, right = by_pair(truth), [], []
    for pair, rows in by_pair(found).items():
        part = sorted((found[i] for i in rows), key=lambda r: -r["score"])
        boxes = [truth[i] for i in objects.get(pair, [])]
        overlap = box_iou(xyxy(part), xyxy(boxes)).numpy() if boxes else np.zeros((len(part), 1))
        for row, iou in zip(part, overlap, strict=True):
            best = int(iou.argmax())
            hit = bool(iou[best] >= 0.5)
            overlap[:, best] = -1.0 if hit else overlap[:, best]
            scores.append(row["score"])
            right.append(hit)
    s, r = np.array(scores), np.array(right)
    return [2 * float(r[s >= t].sum()) / max(float((s >= t).sum() + len(truth)), 1.0) for t in thresholds]


def calibrate(checkpoint: Path, files: list[Path], out: Path, *, images: int = 24) -> Json:
    """AP and F1 over duplicate IoUs and thresholds, on the first images of training files; writes and returns them.

    Args:
        checkpoint: model weights.
        files: training annotation files; images lie in `images` beside each.
        out: JSON to write: `ap50`, `ap75` per duplicate IoU, `f1` per duplicate IoU and threshold, means over sources, and
        the best.
        images: how many of each file.
    """
    model = load_model(checkpoint)
    rows: dict[float, list[Json]] = {overlap: [] for overlap in OVERLAPS}
    for file in tqdm(files, desc="sources", unit="source"):
        truth = read_json(file)
        chosen = {row["id"] for row in truth["images"][:images]}
        truth = {
            **truth,
            "images": [row for row in truth["images"] if row["id"] in chosen],
            "annotations": [row for row in truth["annotations"] if row["image_id"] in chosen],
        }
        clicks = make_clicks(truth, setting="1/category", seed=0, kind="jitter")
        every = predict_coco(model, CocoFolder(file, file.parent / "images"), [clicks], overlap=1.0)[0]
        for overlap in OVERLAPS:
            found = every if overlap == 1.0 else without_duplicates(every, overlap)
            scores = evaluate(truth, found, clicks)["all"]
            rows[overlap].append({"ap50": scores["ap50"], "ap75": scores["ap75"], "f1": f1_curve(truth["annotations"], found)})
    table = {
        str(overlap): {
            "ap50": mean(r["ap50"] for r in part),
            "ap75": mean(r["ap75"] for r in part),
            "f1": np.mean([r["f1"] for r in part], axis=0).tolist(),
        }
        for overlap, part in rows.items()
    }
    best = max(table, key=lambda k: max(table[k]["f1"]))
    results = {
        "checkpoint": Path(checkpoint).name,
        "images_per_source": images,
        "thresholds": list(THRESHOLDS),
        "duplicate_iou": table,
        "best": {"duplicate_iou": float(best), "threshold": THRESHOLDS[int(np.argmax(table[best]["f1"]))]},
        "made_by": provenance(),
    }
    write_json(out, results)
    return results
