"""The default score threshold and duplicate IoU of a checkpoint, chosen on training images, never on validation ones; what an
adaptive threshold is worth beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou, nms
from tqdm import tqdm

from dealkit.boxes import claim, in_regions
from dealkit.clicks import make_clicks
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import first_images
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, write_json
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import predict_coco, predict_prompts
from dealkit.train.stream import bare_ground

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


def without_duplicates(found: list[Json], overlap: float, *, class_agnostic: bool = False) -> list[Json]:
    """COCO results after non-maximum suppression within each image and category, or within each image."""
    kept: list[Json] = []
    for rows in by_pair([row | {"category_id": 0} for row in found] if class_agnostic else found).values():
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
        overlap = box_iou(xyxy(part), xyxy([truth[i] for i in objects.get(pair, [])]))
        right += (claim(overlap) >= 0).tolist()
        scores += [row["score"] for row in part]
    s, r = np.array(scores), np.array(right)
    return [2 * float(r[s >= t].sum()) / max(float((s >= t).sum() + len(truth)), 1.0) for t in thresholds]


def _trials(files: Sequence[Path], images: int) -> Iterator[tuple[CocoFolder, Json, Json]]:
    """Of every file its data set, its first images and one jittered click for each of their prompts."""
    for file in tqdm(files, desc="sources", unit="source"):
        truth = first_images(read_coco(file), images)
        clicks = make_clicks(truth, setting="1/category", seed=0, kind="jitter")
        yield CocoFolder(file), truth, clicks


def calibrate(checkpoint: Path, files: list[Path], out: Path, *, images: int = 24) -> Json:
    """AP and F1 over duplicate IoUs and thresholds, on the first images of training files; writes and returns them.

    Args:
        files: training annotation files; images lie in `images` beside each. images: how many of each file.
        out: JSON to write: `ap50`, `ap75` per duplicate IoU, `f1` per duplicate IoU and threshold, means over sources, and
            the best; `certain` of `certainties`.
    """
    model = load_model(checkpoint)
    certain = certainties(model, files, images)
    rows: dict[float, list[Json]] = {overlap: [] for overlap in OVERLAPS}
    for data, truth, clicks in _trials(files, images):
        every = predict_coco(model, data, [clicks], overlap=1.0)[0]
        for overlap in OVERLAPS:
            found = every if overlap == 1.0 else without_duplicates(every, overlap)
            scores = evaluate(truth, found, clicks)["all"]
            rows[overlap].append({"ap50": scores["ap50"], "ap75": scores["ap75"], "f1": f1_curve(truth["annotations"], found)})
    table = {}
    for overlap, part in rows.items():
        means = {name: mean(row[name] for row in part) for name in ("ap50", "ap75")}
        table[str(overlap)] = means | {"f1": np.mean([row["f1"] for row in part], axis=0).tolist()}
    best = max(table, key=lambda k: max(table[k]["f1"]))
    results = {
        "checkpoint": Path(checkpoint).name,
        "images_per_source": images,
        "thresholds": list(THRESHOLDS),
        "duplicate_iou": table,
        "best": {"duplicate_iou": float(best), "threshold": THRESHOLDS[int(np.argmax(table[best]["f1"]))]},
        "certain": certain,
        "made_by": provenance(),
    }
    write_json(out, results)
    return results


CERTAINTIES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
"""Cuts of `Detections.certain` that are tried."""


def certainties(model: DEAL, files: Sequence[Path], images: int) -> Json:
    """How often clicks on objects and on bare ground are taken for clicks on something, at every one of `CERTAINTIES`.

    Returns:
        `cuts`, `objects` and `ground` (shares that are kept), `clicks` (numbers of both), `best`: the highest cut that keeps 99
        of 100 objects.
    """
    scores: dict[str, list[float]] = {"objects": [], "ground": []}
    generator = torch.Generator().manual_seed(0)
    for data, _, clicks in _trials(files, images):
        for _, _, found in predict_prompts(model, data, [clicks]):
            scores["objects"].append(found.certain)
        grounds = []
        for i in range(min(images, len(data))):
            if (point := bare_ground(data[i], generator)) is not None:
                prompt = {"image_id": data.image_ids[i], "category_id": data.categories[0][0], "points": point.tolist()}
                grounds.append(prompt | {"labels": [1], "annotation_ids": [1]})
        for _, _, found in predict_prompts(model, data, [{**clicks, "prompts": grounds}]):
            scores["ground"].append(found.certain)
    kept = {
        name: [float(np.mean(np.array(values) >= cut)) if values else None for cut in CERTAINTIES]
        for name, values in scores.items()
    }
    best = max(
        (cut for cut, share in zip(CERTAINTIES, kept["objects"], strict=True) if (share or 0) >= 0.99), default=CERTAINTIES[0]
    )
    return {"cuts": list(CERTAINTIES), **kept, "clicks": {k: len(v) for k, v in scores.items()}, "best": best}


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedPrompt:
    """The detections of one prompt, strongest first, judged against the objects that were meant."""

    scores: np.ndarray
    """(N,) float64, 0 to 1."""
    right: np.ndarray
    """(N,) bool: covers an object at IoU 0.5 that no stronger detection has."""
    adaptive: np.ndarray
    """(N,) bool: what the adaptive threshold shows."""
    objects: int
    """How many were meant."""
    density: float
    """How many the density sums to."""


def judge_prompt(found: Detections, truth: list[Json]) -> JudgedPrompt:
    """Detections of one image and category against its annotations; ignored ones, and what is centred in one, are left out.

    >>> boxes, scores = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 8.0, 9.0]]), torch.tensor([0.9, 0.1])
    >>> judged = judge_prompt(Detections(boxes=boxes, scores=scores, count=1.0), [{"bbox": [0, 0, 9, 9]}])
    >>> judged.right.tolist(), judged.adaptive.tolist()
    ([True, False], [True, False])
    """
    boxes, ignored = xyxy(truth), torch.tensor([bool(row.get("iscrowd") or row.get("ignore")) for row in truth], dtype=torch.bool)
    crowd, objects = boxes[ignored], boxes[~ignored]
    counts = ~in_regions((found.boxes[:, :2] + found.boxes[:, 2:]) / 2, crowd)
    right = (claim(box_iou(found.boxes[counts], objects)) >= 0).numpy()
    scores, shown = found.scores[counts].double().numpy(), found.kept()[counts].numpy()
    return JudgedPrompt(scores=scores, right=right, adaptive=shown, objects=len(objects), density=found.count)


def shown_f1(prompts: Sequence[JudgedPrompt], shown: Sequence[np.ndarray]) -> float:
    """F1 of what is shown of all prompts together: 2 true / (shown + objects); 1 if there is nothing to find or show.

    >>> one = JudgedPrompt(scores=np.array([0.9, 0.4]), right=np.array([True, False]), adaptive=None, objects=1, density=1.0)
    >>> shown_f1([one], [np.array([True, True])]), shown_f1([one], [np.array([True, False])])  # 2 / (2 + 1), 2 / (1 + 1)
    (0.6666666666666666, 1.0)
    """
    total = sum(int(s.sum()) for s in shown) + sum(p.objects for p in prompts)
    return 2 * sum(int(p.right[s].sum()) for p, s in zip(prompts, shown, strict=True)) / total if total else 1.0


def best_cuts(prompts: Sequence[JudgedPrompt]) -> list[np.ndarray]:
    """Per prompt (N,) bool: its strongest detections, as many as give all prompts together their highest F1 (`shown_f1`).

    Source: Dinkelbach's method for a ratio: of a given F1 the best number for a prompt is that of the most 2 true - F1 x shown.

    >>> rows = [([0.9, 0.8], [True, False]), ([0.7] * 9, [False] * 8 + [True])]  # the second finds its object last: not worth it
    >>> made = [JudgedPrompt(scores=np.array(s), right=np.array(r), adaptive=None, objects=1, density=1.0) for s, r in rows]
    >>> [int(shown.sum()) for shown in best_cuts(made)]
    [1, 0]
    """
    share = 0.0
    while True:
        cuts = []
        for prompt in prompts:
            rank = np.arange(len(prompt.scores) + 1)
            worth = 2 * np.concatenate([[0], prompt.right.cumsum()]) - share * rank
            cuts.append(rank[1:] <= worth.argmax())
        best = shown_f1(prompts, cuts)
        if best <= share:
            return cuts
        share = best


def compare_thresholds(
    checkpoint: Path, files: list[Path], out: Path, *, images: int = 24, fixed: float = DEFAULT_THRESHOLD
) -> Json:
    """F1 and counting error of the adaptive threshold beside fixed ones and the best there could be; writes and returns them.

    Clicks are drawn as in `calibrate`. A source's F1 is that of all its prompts together, its counting error the mean over them;
    `mean` is over sources.

    Args:
        files, images: as in `calibrate`; the folder's name is the source's. fixed: the fixed threshold.
        out: JSON to write. Of each source `f1` (IoU 0.5): `fixed`, `adaptive`, `best_of_source` (the best fixed threshold of this
            source, `threshold` says which), `oracle` (`best_cuts` of its prompts); `count_mae`: `density`, and the number shown
            by `fixed` and by `adaptive`. `mean.f1.best_fixed` is of the one threshold that is best for the mean of these files.
    """
    model = load_model(checkpoint)
    results: Json = {"checkpoint": Path(checkpoint).name, "images_per_source": images, "fixed": fixed, "sources": {}}
    curves = []
    for data, truth, clicks in _trials(files, images):
        of_pair, prompts = by_pair(truth["annotations"]), []
        for _, prompt, found in predict_prompts(model, data, [clicks]):
            rows = of_pair[prompt["image_id"], prompt["category_id"]]
            prompts.append(judge_prompt(found, [truth["annotations"][i] for i in rows]))
        curve = [shown_f1(prompts, [p.scores >= t for p in prompts]) for t in THRESHOLDS]
        shown = {"fixed": [p.scores >= fixed for p in prompts], "adaptive": [p.adaptive for p in prompts]}
        shown["oracle"] = best_cuts(prompts)
        f1 = {name: shown_f1(prompts, rows) for name, rows in shown.items()} | {"best_of_source": max(curve)}
        counted = {name: [int(s.sum()) for s in shown[name]] for name in ("fixed", "adaptive")}
        counted["density"] = [p.density for p in prompts]
        off = {name: mean(abs(n - p.objects) for n, p in zip(c, prompts, strict=True)) for name, c in counted.items()}
        best = THRESHOLDS[int(np.argmax(curve))]
        results["sources"][data.source] = {"prompts": len(prompts), "threshold": best, "f1": f1, "count_mae": off}
        curves.append(curve)
    every = list(results["sources"].values())
    results["mean"] = {key: {name: mean(s[key][name] for s in every) for name in every[0][key]} for key in ("f1", "count_mae")}
    means = np.mean(curves, axis=0)
    results["mean"]["f1"]["best_fixed"] = float(means.max())
    results["best_fixed"] = THRESHOLDS[int(means.argmax())]
    write_json(out, {**results, "made_by": provenance()})
    return results
