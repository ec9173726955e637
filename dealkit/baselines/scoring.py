"""Baselines and DEAL on equal terms: one evaluator, the same images, the same click lists.

Two numbers for a detector without prompts. *Class-agnostic*: all annotations are one category, the headline. *Per category*:
with an oracle of which categories an image has, as DEAL gets it by being clicked. Detections of others are dropped; a detector of
one class offers each of its boxes for every category that is there. Template matching and open models are asked prompt by prompt.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms
from tqdm import tqdm

from dealkit.baselines.detector import Detector, load_detector
from dealkit.baselines.features import FeatureMatcher
from dealkit.baselines.open_models import OPEN_MODELS, Find, load_open_model
from dealkit.baselines.templates import LEAST, MARGIN, OVERLAP, SCALES, SIDES, TURNS, estimate_box, match_box
from dealkit.clicks import check_clicks, clicks_hash, make_clicks
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import EVAL_SEED, write_coco
from dealkit.evaluate.benchmark import METRICS, row_of
from dealkit.evaluate.coco import evaluate
from dealkit.evaluate.thresholds import without_duplicates
from dealkit.files import Json, Results, sha_of
from dealkit.model.deal import DEAL
from dealkit.predict.detections import Detections, to_rows
from dealkit.predict.predictor import predict_coco

VARIANTS: dict[str, Json] = {"box": {}, "click": {}, "box, scaled and turned": {"scales": (0.8, 1.0, 1.25), "turns": 4}}
"""Ways of `benchmark_templates`: what the method is shown, and how its templates vary."""

FEATURES = ("features, box", "features, click")
"""Further ways: ImageNet features without training, see `FeatureMatcher`."""

MERGE = 0.6
"""IoU above which boxes of two categories are one object to the class-agnostic number, as FCOS merges boxes of one category."""


def detect_coco(detector: Detector, data: CocoFolder, *, batch: int = 4) -> list[Detections]:
    """What the detector finds in every image, in order; images of one size go together, so that none is padded needlessly."""
    detector = detector.eval()
    order = sorted(range(len(data)), key=lambda i: data.sizes_hw[i])
    found: dict[int, Detections] = {}
    with tqdm(total=len(data), unit="img", desc=data.source, mininterval=2, delay=5) as bar:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            found |= zip(chosen, detector.detect([data[i].image for i in chosen]), strict=True)
            bar.update(len(chosen))
    return [found[i] for i in range(len(data))]


def agnostic_rows(found: Sequence[Detections], data: CocoFolder) -> list[Json]:
    """COCO results with all boxes of one category; where two of different classes cover each other, the stronger stays."""
    rows = []
    for image_id, of_image in zip(data.image_ids, found, strict=True):
        if of_image.classes is not None and len(of_image.classes.unique()) > 1:
            of_image = of_image.take(nms(of_image.boxes, of_image.scores, MERGE))
        rows += to_rows(of_image, image_id, data.categories[0][0])
    return rows


def one_class(rows: Iterable[Json], overlap: float = MERGE) -> list[Json]:
    """Predictions of several categories as those of one: of boxes of an image that overlap by more, the strongest stays.

    >>> a = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.4}
    >>> [row["score"] for row in one_class([a, a | {"category_id": 2, "score": 0.6}, a | {"image_id": 2}])]
    [0.6, 0.4]
    """
    return without_duplicates(list(rows), overlap, class_agnostic=True)


def category_rows(found: Sequence[Detections], data: CocoFolder, names: Sequence[str]) -> list[Json]:
    """COCO results per category, only of categories that the image has.

    Args:
        found: one for each image of `data`. names: the detector's categories; none: every box is offered for each category.

    Raises:
        ValueError: the data set has a category that the detector was not trained on; names both.
    """
    ids = dict(data.categories)
    unknown = [name for name in ids.values() if names and name not in names]
    if unknown:
        raise ValueError(f"{data.source}: category {unknown[0]!r} is not one of the detector's: {', '.join(names)}")
    rows = []
    for index, of_image in enumerate(found):
        for label in data.labels[data.rows(index)].unique().tolist():
            category_id, name = data.categories[label]
            chosen = of_image.take(of_image.classes == list(names).index(name)) if names else of_image
            rows += to_rows(chosen, data.image_ids[index], category_id)
    return rows


def evaluate_detector(detector: Detector, file: Path, images: Path | None = None) -> Json:
    """Scores on a COCO file with its images in `images` (default: beside it): the `METRICS`, `class_agnostic`, `per_category`.

    Raises:
        ValueError: a bad file, or a category that the detector was not trained on.
    """
    data, truth = CocoFolder(file, images), read_coco(file)
    started = time.monotonic()
    found = detect_coco(detector, data)
    seconds = time.monotonic() - started
    rows = {"class_agnostic": agnostic_rows(found, data), "per_category": category_rows(found, data, detector.config.categories)}
    about = {"images": len(data), "objects": int((~data.crowd).sum()), "predict_s": round(seconds, 1)}
    return about | {kind: scores_of(truth, part, class_agnostic=kind == "class_agnostic") for kind, part in rows.items()}


def scores_of(truth: Json | Path, rows: list[Json], *, class_agnostic: bool) -> dict[str, float | None]:
    """The `METRICS` over all objects, without clicks."""
    scores = evaluate(truth, rows, class_agnostic=class_agnostic)["all"]
    return {metric: scores[metric] for metric in METRICS}


def evaluate_detector_on_scenes(
    detector: Detector, count: int = 500, size: int = 256, seed: int = EVAL_SEED, **controls: Any
) -> Json:
    """Class-agnostic scores on procedural scenes of a seed never trained on; `controls` are fields of `SceneControls`."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder), count, size=size, seed=seed, **controls)
        data = CocoFolder(file, source="scenes")
        scores = scores_of(file, agnostic_rows(detect_coco(detector, data), data), class_agnostic=True)
    return {"images": count, "size": size, "seed": seed, "class_agnostic": scores}


def validate_detector(detector: Detector) -> dict[str, float]:
    """Scores of a detector in training, on the 60 scenes that a DEAL in training is scored on."""
    row = evaluate_detector_on_scenes(detector, 60)["class_agnostic"]
    return {f"val_{name}": row[name] for name in ("ap50", "ap75") if row[name] is not None}


def found_agnostic(model: DEAL | Detector, data: CocoFolder, clicks: Json, *, oracle: bool = False) -> list[Json]:
    """COCO results of one class, of a detector without the clicks (with `oracle` by category, merged) or of a DEAL given them."""
    if not isinstance(model, Detector):
        return one_class(predict_coco(model, data, [clicks])[0])
    found = detect_coco(model, data)
    return one_class(category_rows(found, data, model.config.categories)) if oracle else agnostic_rows(found, data)


def pooled_results(scored: Sequence[tuple[Json, list[Json], Json]]) -> Json:
    """Class-agnostic results of several sources, (ground truth, predictions, click list) each, as one data set.

    Ids of source k are moved by 10,000,000 k first.
    """
    truth: Json = {"images": [], "annotations": [], "categories": []}
    found, prompts = [], []
    for k, (of_source, rows, clicks) in enumerate(scored):

        def moved(row: Json, by: int = k * 10**7) -> Json:
            ids = {key: row[key] + by for key in ("id", "image_id", "category_id") if key in row}
            names = {"file_name": f"{by}/{row['file_name']}"} if "file_name" in row else {}
            return row | ids | names | {key: [i + by for i in row[key]] for key in ("annotation_ids",) if key in row}

        for name in truth:
            truth[name] += map(moved, of_source[name])
        found += map(moved, rows)
        prompts += map(moved, clicks["prompts"])
    return evaluate(truth, found, scored[0][2] | {"prompts": prompts}, class_agnostic=True)


def benchmark_detector(checkpoint: Path, files: Sequence[Path], out: Path | None, *, scenes: int = 0) -> Results:
    """Evaluate a checkpoint on COCO sources and on procedural scenes: rows `class_agnostic` and `per_category` of every source.

    A row holds `source`, `kind`, `images`, `objects`, `predict_s` and the `METRICS`; that of the scenes has the source `scenes`.

    Args:
        files, out: as in `benchmark`. scenes: how many procedural scenes; 0: none.
    """
    detector = load_detector(checkpoint)
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "detector": detector.config.detector}
    results = Results(out, request)
    for key, file in results.sources(files):
        made = evaluate_detector(detector, file)
        about = {name: made[name] for name in ("images", "objects", "predict_s")}
        results.add(key, *({"kind": kind} | about | made[kind] for kind in ("class_agnostic", "per_category")))
    for key in results.todo([{"source": "scenes", "images": scenes}] if scenes else []):
        results.add(key, {"kind": "class_agnostic"} | evaluate_detector_on_scenes(detector, scenes)["class_agnostic"])
    return results


def reference_rows(
    find: Find, data: CocoFolder, clicks: Json, *, guess: Callable[[Tensor, Sequence[float]], Tensor] | None = None
) -> list[Json]:
    """COCO results of a reference for a click list: records as `predict_coco` gives them.

    Args:
        guess: what makes a box (4,) xyxy of an image and a click; None: the reference is shown the annotated boxes.
    """
    names, row = dict(data.categories), {image_id: i for i, image_id in enumerate(data.image_ids)}
    box_of = dict(zip(data.annotation_ids.tolist(), data.boxes, strict=True))
    rows, last = [], -1
    for prompt in tqdm(check_clicks(clicks)["prompts"], desc=data.source, unit="prompt", mininterval=2):
        if prompt["image_id"] != last:
            last, image = prompt["image_id"], data[row[prompt["image_id"]]].image
        points = [xy for xy, label in zip(prompt["points"], prompt["labels"], strict=True) if label]
        if guess is None:
            boxes = torch.stack([box_of[i] for i in prompt["annotation_ids"]])
        else:
            boxes = torch.stack([guess(image, xy) for xy in points])
        rows += to_rows(find(image, boxes, names[prompt["category_id"]]), prompt["image_id"], prompt["category_id"])
    return rows


def benchmark_templates(
    files: Sequence[Path], out: Path | None, *, variants: Sequence[str] = ("box", "click"), seeds: int = 1
) -> Results:
    """References on COCO sources, one click per category at the centre: rows by source, variant, seed.

    Columns as of `benchmark`. What `out` already holds is not run again, also when variants or seeds are added.

    Args:
        files, out: as in `benchmark`. variants: of `VARIANTS`, `FEATURES` or `OPEN_MODELS`. seeds: click lists of each.

    Raises:
        ValueError: an unknown variant, or an open model whose weights are not in the local cache; before anything is run.
    """
    known = [*VARIANTS, *FEATURES, *OPEN_MODELS]
    if unknown := [name for name in variants if name not in known]:
        raise ValueError(f"variants: expected some of {'; '.join(known)}, got {unknown[0]!r}")
    finders: dict[str, Find] = {v: load_open_model(v) for v in variants if v in OPEN_MODELS}
    for v in set(variants) & set(VARIANTS):
        finders[v] = lambda image, boxes, _, options=VARIANTS[v]: match_box(image, boxes, **options)
    guesses: dict[str, Any] = {"click": estimate_box}
    if set(variants) & set(FEATURES):
        matcher = FeatureMatcher()
        finders |= dict.fromkeys(FEATURES, lambda image, boxes, _: matcher.find(image, boxes))
        guesses["features, click"] = matcher.blob
    request = {"method": "template matching", "setting": "1/category", "kind": "centre", "margin": MARGIN, "least": LEAST}
    request |= {"overlap": OVERLAP, "sides": list(SIDES), "scales": list(SCALES), "turns": TURNS}
    results, of_source = Results(out, request), {file.parent.name: file for file in files}
    keys = [{"source": s, "variant": v, "seed": i} for i in range(seeds) for v in variants for s in of_source]
    for key in results.todo(keys, "template matching"):
        file = of_source[key["source"]]
        truth, data = read_coco(file), CocoFolder(file)
        clicks = make_clicks(truth, setting="1/category", seed=key["seed"])
        found = reference_rows(finders[key["variant"]], data, clicks, guess=guesses.get(key["variant"]))
        about = {"clicks": clicks_hash(clicks), "images": len(data), "objects": len(data.boxes)}
        results.add(key, about | row_of(evaluate(truth, found, clicks)))
    return results
