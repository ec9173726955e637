"""How do the number, kind and place of clicks matter? A simulated user who goes on clicking; and clicks off the centre."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.clicks import make_clicks, offset_clicks
from dealkit.config import MIN_SCORE
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.subsets import first_images
from dealkit.evaluate.benchmark import row_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, Results, sha_of
from dealkit.model.checkpoint import load_model
from dealkit.model.matcher import hungarian_match
from dealkit.predict.detections import Detections, to_rows
from dealkit.predict.predictor import Predictor, predict_coco
from dealkit.train.pgcpp import object_quality, worst_false_positive, worst_object

KINDS = ("positive", "negative")
"""What a user adds after the first click: `positive`, the object handled worst; `negative`, the strongest false positive."""

CURVES = ("ap50", "ap50_ignored", "ap50_unclicked")
"""AP50 over all objects; with `_ignored`, those clicked so far ignored; with `_unclicked`, those ignored that are clicked by the
last point, so that every point is scored on the same objects."""

OFFSETS = (0.0, 0.25, 0.5, 0.75, 0.95)
"""Choice: not 1, where a click lies on the border and as much outside as inside."""


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
        clicked: objects that have been clicked. kind: a member of `KINDS`.
        refused: (n, 2) negative clicks so far: a box over one is not clicked again, as no person would.

    >>> found = Detections(boxes=torch.tensor([[0.0, 0, 4, 4], [50, 50, 54, 54]]), scores=torch.tensor([0.9, 0.8]))
    >>> objects = torch.tensor([[0.0, 0.0, 4.0, 4.0], [20.0, 20.0, 24.0, 24.0]])
    >>> [next_click(found, objects, torch.zeros(0, 4), [0], kind) for kind in KINDS]
    [(tensor([22., 22.]), 1), (tensor([52., 52.]), -1)]
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


def click_on(
    predictor: Predictor, sample: Sample, prompt: Json, label: int, kind: str, clicks: int
) -> list[tuple[Json, list[Json]]]:
    """The prompt as it grew and its COCO detections, after 1, 2, ... `clicks` clicks, in the image that is set.

    A user who finds nothing more to click keeps what there is: the prompt is not predicted again.
    """
    rows = ((sample.labels == label) & ~sample.crowd).nonzero()[:, 0]
    objects, crowd, ids = sample.boxes[rows], sample.boxes[(sample.labels == label) & sample.crowd], sample.annotation_ids[rows]
    touched = [ids.tolist().index(a) for a in prompt["annotation_ids"]]
    rounds = []
    for _ in range(clicks):
        found = predictor.predict(prompt["points"], prompt["labels"])
        rounds.append((prompt, to_rows(found, prompt["image_id"], prompt["category_id"])))
        refused = torch.tensor([p for p, sign in zip(prompt["points"], prompt["labels"], strict=True) if not sign])
        chosen = next_click(found, objects, crowd, touched, kind, refused.reshape(-1, 2))
        if chosen is None:
            break
        touched = [*touched, chosen[1]] if chosen[1] >= 0 else touched
        points = [*prompt["points"], [round(v, 2) for v in chosen[0].tolist()]]
        labels = [*prompt["labels"], int(chosen[1] >= 0)]
        prompt = prompt | {"points": points, "labels": labels, "annotation_ids": ids[touched].tolist()}
    return rounds + rounds[-1:] * (clicks - len(rounds))


def curve_of_source(predictor: Predictor, data: CocoFolder, truth: Json, kind: str, *, clicks: int, seed: int) -> Json:
    """Lists over the number of clicks: `clicks` and the `CURVES`, None where no object is left to score.

    Args:
        data: images of a source. truth: its annotations, of all images or some. clicks: most clicks of a prompt.
        seed: which object is clicked first.
    """
    first = make_clicks(truth, setting="1/category", seed=seed)
    label = {category: i for i, (category, _) in enumerate(data.categories)}
    row = {image_id: i for i, image_id in enumerate(data.image_ids)}
    found, lists = [[] for _ in range(clicks)], [[] for _ in range(clicks)]
    shown = None
    for prompt in tqdm(first["prompts"], desc=f"{data.source}: {kind}", unit="prompt", mininterval=2):
        if prompt["image_id"] != shown:
            shown = prompt["image_id"]
            sample = data[row[shown]]
            predictor.set_image(sample.image)
        rounds = click_on(predictor, sample, prompt, label[prompt["category_id"]], kind, clicks)
        for n, (grown, detections) in enumerate(rounds):
            found[n] += detections
            lists[n].append(grown)
    touched = [[prompt["annotation_ids"] for prompt in prompts] for prompts in lists]
    curve: Json = {"clicks": list(range(1, clicks + 1)), **{name: [] for name in CURVES}}
    for n in range(clicks):
        if n and lists[n] == lists[n - 1]:  # nobody clicked
            values = [curve[name][-1] for name in CURVES]
        else:
            so_far = evaluate(truth, found[n], first | {"prompts": lists[n]})
            by_last = so_far if touched[n] == touched[-1] else evaluate(truth, found[n], first | {"prompts": lists[-1]})
            values = [part and part["ap50"] for part in (so_far["all"], so_far["clicked_ignored"], by_last["clicked_ignored"])]
        for name, value in zip(CURVES, values, strict=True):
            curve[name].append(value)
    return curve


def click_curves(
    checkpoint: Path,
    files: Sequence[Path],
    out: Path | None = None,
    *,
    clicks: int = 20,
    kinds: Sequence[str] = KINDS,
    images: int | None = None,
    seeds: int = 1,
) -> Results:
    """AP50 against the number of clicks: a row per source, kind of further click and seed, see `curve_of_source`.

    Args:
        files: annotation files; images lie in `images` beside each, the folder's name is the source's.
        out: JSON to write; sources that it already holds for the same request are not run again.
        images: at most so many of each file, None all. seeds: how many first clicks each prompt gets.
    """
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "clicks": clicks, "kinds": kinds}
    results = Results(out, request | {"images": images, "seeds": seeds})
    predictor = Predictor(checkpoint, threshold=MIN_SCORE)
    for key, file in results.sources(files):
        data, truth = CocoFolder(file), first_images(read_coco(file), images)
        about = {"several_categories": len({a["category_id"] for a in read_coco(file)["annotations"]}) > 1}
        cells = [(kind, seed) for kind in kinds for seed in range(seeds)]
        curves = [curve_of_source(predictor, data, truth, kind, clicks=clicks, seed=seed) for kind, seed in cells]
        results.add(key, *(about | {"kind": k, "seed": s} | curve for (k, s), curve in zip(cells, curves, strict=True)))
    return results


def position_scores(
    checkpoint: Path,
    files: Sequence[Path],
    out: Path | None = None,
    *,
    offsets: Sequence[float] = OFFSETS,
    images: int | None = None,
    seeds: int = 1,
) -> Results:
    """The numbers of `row_of` against the place of the click: a row per source, seed and offset (see `offset_point`).

    Files, `out`, `images` and seeds as in `click_curves`; each image is encoded once for all click lists.
    """
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "offsets": offsets}
    results = Results(out, request | {"images": images, "seeds": seeds})
    model = load_model(checkpoint)
    for key, file in results.sources(files):
        data, truth = CocoFolder(file), first_images(read_coco(file), images)
        cells = [(seed, offset) for seed in range(seeds) for offset in offsets]
        lists = [offset_clicks(truth, offset, seed) for seed, offset in cells]
        scored = [row_of(evaluate(truth, f, c)) for c, f in zip(lists, predict_coco(model, data, lists), strict=True)]
        results.add(key, *({"seed": s, "offset": o} | row for (s, o), row in zip(cells, scored, strict=True)))
    return results
