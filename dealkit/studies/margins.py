"""Do all boxes follow one that was drawn wider or tighter than those of the training? Annotators leave different margins."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from tqdm import tqdm

from dealkit.clicks import make_clicks
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import first_images
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.predict.predictor import predict_coco

FOLLOWED = (0.0, 0.2, 0.35, 0.5, 0.7)
"""Powers that are tried, of `model.deal.FOLLOW`."""

MARGINS = {"as annotated": (1.0, 1.0), "scaled": (0.7, 1.5)}
"""By what the boxes of a kind in an image are scaled, drawn log-uniformly per axis. Choice: somewhat more than in training."""

SCORES = ("ap25", "ap50", "ap75")


def with_margins(coco: Json, low: float, high: float, seed: int = 0) -> Json:
    """The annotations with all boxes of a category in an image scaled about their centres by one factor per axis, and clipped.

    >>> box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 4, 6]}
    >>> coco = {"images": [{"id": 1, "width": 90, "height": 24}], "annotations": [box]}
    >>> with_margins(coco, 2.0, 2.0)["annotations"][0]["bbox"]  # 8 x 12 round (12, 23), of which 7 px lie in the image
    [8.0, 17.0, 8.0, 7.0]
    """
    rng, factors, made = np.random.default_rng(seed), {}, []
    size_wh = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    for ann in coco["annotations"]:
        kind = ann["image_id"], ann["category_id"]
        if kind not in factors:
            factors[kind] = np.exp(rng.uniform(math.log(low), math.log(high), 2))
        corner, sides = np.array(ann["bbox"][:2]), np.array(ann["bbox"][2:])
        half = sides / 2 * factors[kind]
        start, end = ((corner + sides / 2 + step).clip(0, size_wh[ann["image_id"]]) for step in (-half, half))
        made.append(ann | {"bbox": [*start.tolist(), *(end - start).tolist()], "area": float((end - start).prod())})
    return {**coco, "annotations": made}


def compare_margins(
    checkpoint: Path, files: Sequence[Path], out: Path, *, images: int, followed: Sequence[float] = FOLLOWED
) -> Json:
    """AP of a drawn box per category, its own object ignored, together, for every margin and power; writes and returns it.

    Args:
        files: COCO files; images lie in `images` beside each. images: how many of each file. followed: the powers.
        out: JSON to write: `rows` of `margins`, `follow` and the mean over sources of `SCORES`.
    """
    model = load_model(checkpoint)
    scores: dict[tuple[str, float], list[Json]] = {(name, power): [] for name in MARGINS for power in followed}
    for file in tqdm(files, desc="sources", unit="source"):
        data, annotated = CocoFolder(file), first_images(read_coco(file), images)
        truths = [with_margins(annotated, *margins) for margins in MARGINS.values()]
        drawn = [make_clicks(truth, setting="1/category", seed=0, kind="box") for truth in truths]
        for power in followed:
            model.follow = power
            found = predict_coco(model, data, drawn, together=True)
            for name, *each in zip(MARGINS, truths, found, drawn, strict=True):
                scores[name, power].append(evaluate(*each)["clicked_ignored"])
    rows = [
        {"margins": name, "follow": power, **{m: mean(s[m] for s in part if s[m] is not None) for m in SCORES}}
        for (name, power), part in scores.items()
    ]
    results = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "images_per_source": images, "rows": rows}
    write_json(out, {**results, "made_by": provenance()})
    return results
