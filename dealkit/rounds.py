"""A simulated user who goes on clicking: AP against the number of clicks, positive ones or "not this"."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.calibrate import first_images
from dealkit.data.coco import CocoFolder, Sample
from dealkit.evaluate import evaluate
from dealkit.matcher import match
from dealkit.pgcpp import object_quality, worst_false_positive, worst_object
from dealkit.predict import MIN_SCORE, Detections, Predictor, to_rows
from dealkit.prompts import make_clicks, read_json
from dealkit.report import Json, average
from dealkit.train import provenance, write_json

KINDS = ("positive", "negative")
"""What a user adds after the first click: `positive`, the object handled worst; `negative`, the strongest false positive."""


def next_click(found: Detections, objects: Tensor, crowd: Tensor, clicked: Sequence[int], kind: str) -> tuple[Tensor, int] | None:
    """The user's next point (2,) and the object it is on, -1 for a negative one; None if there is nothing left to click.

    Args:
        found: what the last prompt found. objects: (T, 4) xyxy of the category. crowd: (R, 4) xyxy ignored regions.
        clicked: objects that have been clicked.
        kind: a member of `KINDS`.

    >>> found = Detections(boxes=torch.tensor([[0.0, 0, 4, 4], [50, 50, 54, 54]]), scores=torch.tensor([0.9, 0.8]))
    >>> objects = torch.tensor([[0.0, 0.0, 4.0, 4.0], [20.0, 20.0, 24.0, 24.0]])
    >>> next_click(found, objects, torch.zeros(0, 4), [0], "positive")
    (tensor([22., 22.]), 1)
    >>> next_click(found, objects, torch.zeros(0, 4), [0], "negative")
    (tensor([52., 52.]), -1)
    """
    boxes, scores, truth = to_cxcywh(found.boxes), found.scores, to_cxcywh(objects)
    if kind == "negative":
        wrong = worst_false_positive(boxes, scores, truth, to_cxcywh(crowd))
        return None if wrong is None else (boxes[wrong, :2], -1)
    if len(clicked) == len(objects):
        return None
    every = torch.ones(len(boxes), dtype=torch.bool)
    pairs = match(boxes, scores.clamp(1e-4, 1 - 1e-4).logit(), every, truth, torch.zeros(0, dtype=torch.int64))
    quality = object_quality(boxes, scores, truth, pairs)
    quality[list(clicked)] = torch.inf
    worst = worst_object(quality)
    return truth[worst, :2], worst


def click_on(predictor: Predictor, sample: Sample, prompts: list[Json], labels: list[int], kind: str, clicks: int) -> list[list]:
    """Detections of every prompt of an image after 1, 2, ... `clicks` clicks: (clicks, prompts), and the prompts as they grew.

    A user who finds nothing more to click keeps what there is.
    """
    predictor.set_image(sample.image)
    sets, rounds = [(list(p["points"]), list(p["labels"])) for p in prompts], []
    rows = [((sample.labels == label) & ~sample.crowd).nonzero()[:, 0] for label in labels]
    position = [{a: i for i, a in enumerate(sample.annotation_ids[r].tolist())} for r in rows]
    touched = [[where[a] for a in p["annotation_ids"]] for where, p in zip(position, prompts, strict=True)]
    for n in range(clicks):
        found = predictor.predict_categories(sets)
        grown = [
            p | {"points": list(s[0]), "labels": list(s[1]), "annotation_ids": sample.annotation_ids[r][t].tolist()}
            for p, s, r, t in zip(prompts, sets, rows, touched, strict=True)
        ]
        rounds.append(list(zip(grown, found, strict=True)))
        if n + 1 == clicks:
            break
        for k, label in enumerate(labels):
            crowd = sample.boxes[(sample.labels == label) & sample.crowd]
            chosen = next_click(found[k], sample.boxes[rows[k]], crowd, touched[k], kind)
            if chosen is not None:
                point, touched_now = chosen
                sets[k][0].append([round(v, 2) for v in point.tolist()])
                sets[k][1].append(int(touched_now >= 0))
                touched[k] += [touched_now] if touched_now >= 0 else []
    return rounds


def curve_of_source(predictor: Predictor, file: Path, kind: str, *, clicks: int, images: int | None, seed: int) -> list[Json]:
    """Per number of clicks `ap50`, `ap75` over all objects, and with every clicked object ignored; one source.

    Args:
        file: annotations, images in `images` beside it. clicks: most clicks of a prompt. images: at most so many, None all.
    """
    data, truth = CocoFolder(file, file.parent / "images"), first_images(read_json(file), images)
    first = make_clicks(truth, setting="1/category", seed=seed)
    label = {category: i for i, (category, _) in enumerate(data.categories)}
    by_image: dict[int, list[Json]] = {}
    for prompt in first["prompts"]:
        by_image.setdefault(prompt["image_id"], []).append(prompt)
    found: list[list[Json]] = [[] for _ in range(clicks)]
    lists: list[list[Json]] = [[] for _ in range(clicks)]
    row = {image_id: i for i, image_id in enumerate(data.image_ids)}
    for image_id, prompts in tqdm(by_image.items(), desc=f"{data.source}: {kind}", unit="img", mininterval=2):
        labels = [label[p["category_id"]] for p in prompts]
        for n, pairs in enumerate(click_on(predictor, data[row[image_id]], prompts, labels, kind, clicks)):
            for prompt, detections in pairs:
                found[n] += to_rows(detections, image_id, prompt["category_id"])
                lists[n].append(prompt)
    curve = []
    for n in range(clicks):
        results = evaluate(truth, found[n], {**first, "prompts": lists[n]})
        scores = {key: results["all"][key] for key in ("ap50", "ap75")}
        ignored = results["clicked_ignored"] or {}
        curve.append({"clicks": n + 1, **scores, **{f"{key}_ignored": ignored.get(key) for key in scores}})
    return curve


def clicks_to_reach(curve: list[Json], least: float, metric: str = "ap50") -> int | None:
    """NoC: the fewest clicks whose AP is at least `least`; None if none is.

    >>> clicks_to_reach([{"clicks": 1, "ap50": 0.4}, {"clicks": 2, "ap50": 0.7}], 0.6)
    2
    """
    return next((point["clicks"] for point in curve if (point[metric] or 0.0) >= least), None)


def click_curves(
    checkpoint: Path,
    files: list[Path],
    out: Path,
    *,
    clicks: int = 5,
    kinds: Sequence[str] = KINDS,
    images: int | None = None,
    seed: int = 0,
) -> Json:
    """AP against the number of clicks, per source and their mean, for each kind of further click; writes and returns it."""
    predictor = Predictor(checkpoint, threshold=MIN_SCORE)
    request: dict[str, Any] = {"checkpoint": Path(checkpoint).name, "clicks": clicks, "images": images, "seed": seed}
    results: Json = {"request": request, "sources": {}, "mean": {}}
    for file in tqdm(files, desc="sources", unit="source"):
        several = len({a["category_id"] for a in read_json(file)["annotations"]}) > 1
        curves = {k: curve_of_source(predictor, file, k, clicks=clicks, images=images, seed=seed) for k in kinds}
        results["sources"][file.parent.name] = {"several_categories": several, **curves}
        write_json(out, results)
    for kind in kinds:
        curves = [source[kind] for source in results["sources"].values()]
        results["mean"][kind] = [average([curve[n] for curve in curves]) for n in range(clicks)]
    write_json(out, {**results, "made_by": provenance()})
    return results
