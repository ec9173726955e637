"""AP against where in an object the click is: from its centre to its border, on the same objects."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dealkit.clicks import make_clicks, uniform_pair
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import first_images
from dealkit.evaluate.benchmark import mean_row, row_of, spread_row
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, read_json, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.predict.predictor import predict_coco

OFFSETS = (0.0, 0.25, 0.5, 0.75, 0.95)
"""Choice: not 1, where a click lies on the border and as much outside as inside."""


def offset_point(box_xyxy: Sequence[float], offset: float, turn: float) -> list[float]:
    """The point of a box that is `offset` of the way from its centre to its border, in the direction of `turn`.

    The larger of the distances in half widths and half heights is `offset`: all points of one offset lie on a box of the same
    centre and shape, `offset` times as large.

    Args:
        box_xyxy: four pixels. offset: 0 the centre to 1 the border.
        turn: direction, 0 to 1 of a turn from the right over the bottom, in the frame where the box is a square.

    Returns:
        xy in pixels, rounded to 0.01.

    Raises:
        ValueError: an offset outside 0 to 1.

    Source: paper, ablation of the point's position. Choice: the law of the offset, of which the paper has a picture only.

    >>> offset_point([0, 0, 40, 20], 0.5, 0.0), offset_point([0, 0, 40, 20], 0.5, 0.125)  # to the right, to the corner
    ([30.0, 10.0], [30.0, 15.0])
    """
    if not 0 <= offset <= 1:
        raise ValueError(f"offset: expected 0 to 1, got {offset}")
    x1, y1, x2, y2 = box_xyxy
    across, down = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    reach = offset / max(abs(across), abs(down))
    return [
        round((x1 + x2) / 2 + reach * across * (x2 - x1) / 2, 2),
        round((y1 + y2) / 2 + reach * down * (y2 - y1) / 2, 2),
    ]


def offset_clicks(coco: Json, offset: float, seed: int) -> Json:
    """A click list of one click per category of an image, off the centre of the objects that `make_clicks` draws.

    Which objects are clicked, and in which direction the click is off, depends on the seed alone: lists of one seed differ in
    nothing but the distance. With offset 0 it is the list of `make_clicks`. Of a box over the image's border the part inside
    counts.

    Args:
        coco: ground truth in COCO form. offset: 0 to 1, as in `offset_point`.

    >>> box = {"id": 7, "image_id": 1, "category_id": 2, "bbox": [10, 20, 4, 6]}
    >>> coco = {"images": [{"id": 1}], "categories": [{"id": 2}], "annotations": [box]}
    >>> offset_clicks(coco, 0.0, seed=0)["prompts"][0]["points"]
    [[12.0, 23.0]]
    """
    clicks = make_clicks(coco, setting="1/category", seed=seed)
    boxes = {row["id"]: row["bbox"] for row in coco["annotations"]}
    sizes = {row["id"]: (row.get("width", math.inf), row.get("height", math.inf)) for row in coco["images"]}
    moved = []
    for prompt in clicks["prompts"]:
        image_id, category_id, (chosen,) = prompt["image_id"], prompt["category_id"], prompt["annotation_ids"]
        (x, y, w, h), (width, height) = boxes[chosen], sizes[image_id]
        inside = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        turn, _ = uniform_pair(seed, image_id, category_id, chosen)
        moved.append(prompt | {"points": [offset_point(inside, offset, turn)]})
    return {**clicks, "prompts": moved}


def positions_of_source(model: Any, file: Path, offsets: Sequence[float], *, images: int | None, seeds: int) -> list[list[Json]]:
    """Per seed and offset the numbers of `report.row_of`; each image is encoded once for all of them."""
    data, truth = CocoFolder(file, file.parent / "images"), first_images(read_json(file), images)
    wanted = [(seed, offset) for seed in range(seeds) for offset in offsets]
    lists = [offset_clicks(truth, offset, seed) for seed, offset in wanted]
    curves: list[list[Json]] = [[] for _ in range(seeds)]
    for (seed, offset), clicks, found in zip(wanted, lists, predict_coco(model, data, lists), strict=True):
        curves[seed].append({"offset": offset, **row_of(evaluate(truth, found, clicks))})
    return curves


def position_curves(
    checkpoint: Path,
    files: list[Path],
    out: Path,
    *,
    offsets: Sequence[float] = OFFSETS,
    images: int | None = None,
    seeds: int = 1,
) -> Json:
    """AP against the position of the click, per source and their mean; writes and returns the results.

    Args:
        checkpoint: model weights.
        files: annotation files; images lie in `images` beside each, the folder's name is the source's.
        out: JSON to write: `sources`: name -> seed -> offset -> numbers; `of_seeds`: their means over sources; `mean` and
            `spread` of these over seeds, per offset. Sources that it holds for the same checkpoint and request are kept.
        offsets: see `offset_point`. images: at most so many of each file, None all.
        seeds: how many draws of objects and directions.
    """
    request: Json = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "offsets": list(offsets)}
    request |= {"images": images, "seeds": seeds}
    results: Json = {"request": request, "sources": {}}
    if Path(out).is_file() and read_json(out).get("request") == request:
        results = read_json(out)
    model = load_model(checkpoint)
    for file in tqdm(files, desc="sources", unit="source"):
        if file.parent.name in results["sources"]:
            continue
        curves = positions_of_source(model, file, offsets, images=images, seeds=seeds)
        results["sources"][file.parent.name] = curves
        write_json(out, results)
    every = list(results["sources"].values())
    of_seeds = [[mean_row([source[seed][i] for source in every]) for i in range(len(offsets))] for seed in range(seeds)]
    results["of_seeds"] = of_seeds
    rows = list(zip(*of_seeds, strict=True))
    results["mean"] = [mean_row(list(r)) for r in rows]
    results["spread"] = [{**spread_row(list(r)), "offset": offset} for r, offset in zip(rows, offsets, strict=True)]
    write_json(out, {**results, "made_by": provenance()})
    return results
