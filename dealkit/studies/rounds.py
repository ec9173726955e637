"""A simulated user who goes on clicking: AP against the number of clicks, positive ones or "not this"."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.clicks import make_clicks
from dealkit.config import MIN_SCORE
from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.subsets import first_images
from dealkit.evaluate.benchmark import mean_row, spread_row
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, read_json, sha_of, write_json
from dealkit.model.matcher import hungarian_match
from dealkit.predict.detections import Detections, to_rows
from dealkit.predict.predictor import Predictor
from dealkit.train.pgcpp import object_quality, worst_false_positive, worst_object

KINDS = ("positive", "negative")
"""What a user adds after the first click: `positive`, the object handled worst; `negative`, the strongest false positive."""

METRICS = tuple(f"{ap}{of}" for of in ("", "_ignored", "_unclicked") for ap in ("ap50", "ap75"))
"""What a point of a curve holds: AP over all objects; with `_ignored`, those clicked so far ignored; with `_unclicked`, those
ignored that are clicked by the last point, so that every point is scored on the same objects."""


def quality_of(found: Detections, objects: Tensor) -> Tensor:
    """How well each of the objects (T, 4) xyxy is handled, (T,): score x IoU of the detection assigned to it (`object_quality`).

    >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    >>> quality_of(Detections(boxes=box, scores=torch.tensor([0.9])), torch.cat([box, box + 20]))
    tensor([0.9000, 0.0000])
    """
    boxes, truth = to_cxcywh(found.boxes), to_cxcywh(objects)
    every = torch.ones(len(boxes), dtype=torch.bool)
    pairs = hungarian_match(boxes, found.scores.clamp(1e-4, 1 - 1e-4).logit(), every, truth, torch.zeros(0, dtype=torch.int64))
    return object_quality(boxes, found.scores, truth, pairs)


def next_click(
    found: Detections, objects: Tensor, crowd: Tensor, clicked: Sequence[int], kind: str, refused: Tensor | None = None
) -> tuple[Tensor, int] | None:
    """The user's next point (2,) and the object it is on, -1 for a negative one; None if there is nothing left to click.

    Args:
        found: what the last prompt found. objects: (T, 4) xyxy of the category. crowd: (R, 4) xyxy ignored regions.
        clicked: objects that have been clicked.
        kind: a member of `KINDS`.
        refused: (n, 2) negative clicks so far: a box over one is not clicked again, as no person would.

    >>> found = Detections(boxes=torch.tensor([[0.0, 0, 4, 4], [50, 50, 54, 54]]), scores=torch.tensor([0.9, 0.8]))
    >>> objects = torch.tensor([[0.0, 0.0, 4.0, 4.0], [20.0, 20.0, 24.0, 24.0]])
    >>> next_click(found, objects, torch.zeros(0, 4), [0], "positive")
    (tensor([22., 22.]), 1)
    >>> next_click(found, objects, torch.zeros(0, 4), [0], "negative")
    (tensor([52., 52.]), -1)
    >>> next_click(found, objects, torch.zeros(0, 4), [0], "negative", torch.tensor([[52.0, 52.0]])) is None
    True
    """
    boxes, scores, truth = to_cxcywh(found.boxes), found.scores, to_cxcywh(objects)
    if kind == "negative":
        if refused is not None and len(refused):
            spots = refused[None]  # (1, n, 2)
            over = ((spots >= found.boxes[:, None, :2]) & (spots <= found.boxes[:, None, 2:])).all(-1).any(1)
            boxes, scores = boxes[~over], scores[~over]
        wrong = worst_false_positive(boxes, scores, truth, to_cxcywh(crowd))
        return None if wrong is None else (boxes[wrong, :2], -1)
    if len(clicked) == len(objects):
        return None
    quality = quality_of(found, objects)
    quality[list(clicked)] = torch.inf
    worst = worst_object(quality)
    return truth[worst, :2], worst


def click_on(predictor: Predictor, sample: Sample, prompts: list[Json], labels: list[int], kind: str, clicks: int) -> list[list]:
    """Detections of every prompt of an image after 1, 2, ... `clicks` clicks: (clicks, prompts), and the prompts as they grew.

    A user who finds nothing more to click keeps what there is: such a prompt is not predicted again.
    """
    predictor.set_image(sample.image)
    sets, rounds = [(list(p["points"]), list(p["labels"])) for p in prompts], []
    rows = [((sample.labels == label) & ~sample.crowd).nonzero()[:, 0] for label in labels]
    crowds = [sample.boxes[(sample.labels == label) & sample.crowd] for label in labels]
    position = [{a: i for i, a in enumerate(sample.annotation_ids[r].tolist())} for r in rows]
    touched = [[where[a] for a in p["annotation_ids"]] for where, p in zip(position, prompts, strict=True)]
    found: dict[int, Detections] = {}
    grown: dict[int, Json] = {}
    going = list(range(len(prompts)))
    for n in range(clicks):
        for k, detections in zip(going, predictor.predict_categories([sets[k] for k in going]) if going else [], strict=True):
            found[k] = replace(detections, image=None)
            ids = sample.annotation_ids[rows[k]][touched[k]].tolist()
            grown[k] = prompts[k] | {"points": list(sets[k][0]), "labels": list(sets[k][1]), "annotation_ids": ids}
        rounds.append([(grown[k], found[k]) for k in range(len(prompts))])
        clicked_now = []
        for k in going if n + 1 < clicks else []:
            points, signs = sets[k]
            refused = torch.tensor([p for p, sign in zip(points, signs, strict=True) if not sign]).reshape(-1, 2)
            chosen = next_click(found[k], sample.boxes[rows[k]], crowds[k], touched[k], kind, refused)
            if chosen is not None:
                points.append([round(v, 2) for v in chosen[0].tolist()])
                signs.append(int(chosen[1] >= 0))
                touched[k] += [chosen[1]] if chosen[1] >= 0 else []
                clicked_now.append(k)
        going = clicked_now
    return rounds


def curve_of_source(predictor: Predictor, file: Path, kind: str, *, clicks: int, images: int | None, seed: int) -> list[Json]:
    """Per number of clicks the `METRICS` of one source; None where no object is left to score.

    Args:
        file: annotations, images in `images` beside it. clicks: most clicks of a prompt. images: at most so many, None all.
        seed: which object is clicked first.
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
        labels, written = [label[p["category_id"]] for p in prompts], {}
        for n, pairs in enumerate(click_on(predictor, data[row[image_id]], prompts, labels, kind, clicks)):
            for prompt, detections in pairs:
                if id(detections) not in written:  # one that no click changed is written once
                    written[id(detections)] = detections, to_rows(detections, image_id, prompt["category_id"])
                found[n] += written[id(detections)][1]
                lists[n].append(prompt)
    curve = []
    touched = [[p["annotation_ids"] for p in prompts] for prompts in lists]
    for n in range(clicks):
        if n and lists[n] == lists[n - 1]:  # nobody clicked
            curve.append({**curve[-1], "clicks": n + 1})
            continue
        so_far = evaluate(truth, found[n], {**first, "prompts": lists[n]})
        last = so_far if touched[n] == touched[-1] else evaluate(truth, found[n], {**first, "prompts": lists[-1]})
        parts = so_far["all"], so_far["clicked_ignored"] or {}, last["clicked_ignored"] or {}
        values = [part.get(ap) for part in parts for ap in ("ap50", "ap75")]
        curve.append({"clicks": n + 1, **dict(zip(METRICS, values, strict=True))})
    return curve


def mean_curves(curves: dict[str, list[list[list[Json]]]]) -> Json:
    """Means over sources of the curves of all sources.

    A source is left out of a metric that it lacks at any number of clicks, kind or seed: else a curve would rise or fall only
    because other sources are left.

    Args:
        curves: kind -> source -> seed -> curve.

    Returns:
        `of_seeds`: kind -> seed -> curve; `mean`, `spread`: kind -> curve, over seeds; `sources_in_mean`: metric -> number.

    >>> curve = [[{"clicks": 1, **dict.fromkeys(METRICS, v)}] for v in (0.2, 0.6)]  # two sources, one seed
    >>> means = mean_curves({"positive": [[c] for c in curve]})
    >>> means["mean"]["positive"][0]["ap50"], means["spread"]["positive"][0]["ap50"], means["sources_in_mean"]["ap50"]
    (0.4, None, 2)
    """

    def has(source: int, metric: str) -> bool:
        return all(p[metric] is not None for of_kind in curves.values() for curve in of_kind[source] for p in curve)

    number = len(next(iter(curves.values())))
    whole = {metric: [s for s in range(number) if has(s, metric)] for metric in METRICS}

    def over_sources(points: Sequence[Json]) -> Json:  # of every source the same number of clicks and seed
        row = {m: mean(points[s][m] for s in whole[m]) if whole[m] else None for m in METRICS}
        return {"clicks": points[0]["clicks"], **row}

    result: Json = {"of_seeds": {}, "mean": {}, "spread": {}, "sources_in_mean": {m: len(s) for m, s in whole.items()}}
    for kind, of_kind in curves.items():
        of_seeds = [[over_sources(points) for points in zip(*seed, strict=True)] for seed in zip(*of_kind, strict=True)]
        result["of_seeds"][kind] = of_seeds
        rows = list(zip(*of_seeds, strict=True))
        result["mean"][kind] = [{**mean_row(list(r)), "clicks": r[0]["clicks"]} for r in rows]
        result["spread"][kind] = [{**spread_row(list(r)), "clicks": r[0]["clicks"]} for r in rows]
    return result


def click_curves(
    checkpoint: Path,
    files: list[Path],
    out: Path,
    *,
    clicks: int = 20,
    kinds: Sequence[str] = KINDS,
    images: int | None = None,
    seeds: int = 1,
) -> Json:
    """AP against the number of clicks, per source and their mean, for each kind of further click; writes and returns it.

    Args:
        files: annotation files; images lie in `images` beside each, the folder's name is the source's.
        out: JSON to write. Sources that it already holds for the same checkpoint and request are not run again.
        seeds: how many first clicks each prompt gets, one curve for each.
    """
    request: dict[str, Any] = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "clicks": clicks}
    request |= {"kinds": list(kinds), "images": images, "seeds": seeds}
    results: Json = {"request": request, "sources": {}}
    if Path(out).is_file() and read_json(out).get("request") == request:
        results = read_json(out)
    predictor = Predictor(checkpoint, threshold=MIN_SCORE)
    for file in tqdm(files, desc="sources", unit="source"):
        if file.parent.name in results["sources"]:
            continue
        several = len({a["category_id"] for a in read_json(file)["annotations"]}) > 1
        curves = {
            kind: [curve_of_source(predictor, file, kind, clicks=clicks, images=images, seed=seed) for seed in range(seeds)]
            for kind in kinds
        }
        results["sources"][file.parent.name] = {"several_categories": several, "curves": curves}
        write_json(out, results)
    every = {kind: [source["curves"][kind] for source in results["sources"].values()] for kind in kinds}
    results |= mean_curves(every)
    write_json(out, {**results, "made_by": provenance()})
    return results
