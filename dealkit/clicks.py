"""Click lists: which objects of an evaluation are clicked, and where. Committed, and named by a hash beside every score.

Points are x, y pixels of the image as stored; (0, 0) is the top-left corner of the image and pixel centres are at +0.5.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from dealkit.data.annotations import is_number, is_whole, read_coco
from dealkit.files import read_json, write_text

SETTINGS: dict[str, int | None] = {"1/category": 1, "3/category": 3, "5/category": 5, "1/instance": None}
"""Clicks per category of an image: the headline is `1/category`; None clicks every instance."""

KINDS: tuple[str, ...] = ("centre", "jitter", "box")
"""`centre` of the box (headline), `jitter`: uniform inside the middle half of the box, or the `box` itself, drawn exactly."""


def _draw(seed: int, image_id: int, category_id: int, annotation_id: int) -> tuple[int, float, float]:
    """A rank and two uniform numbers in [0, 1) that depend on nothing but the arguments."""
    digest = hashlib.sha256(f"{seed}/{image_id}/{category_id}/{annotation_id}".encode()).digest()
    rank, u, v = (int.from_bytes(digest[i : i + 8], "big") for i in (0, 8, 16))
    return rank, u / 2**64, v / 2**64


def _point(ann: dict[str, Any], size_wh: tuple[float, float], across: float, down: float) -> list[float]:
    """The xy at a share of the width and height of the part of a box that lies in the image, rounded to 0.01."""
    x, y, w, h = ann["bbox"]
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, size_wh[0]), min(y + h, size_wh[1])
    return [round(x1 + (x2 - x1) * across, 2), round(y1 + (y2 - y1) * down, 2)]


def _drawn(ann: dict[str, Any], size_wh: tuple[float, float]) -> list[float]:
    """Width and height of the part of a box that lies in the image."""
    (x1, y1), (x2, y2) = (_point(ann, size_wh, share, share) for share in (0.0, 1.0))
    return [round(x2 - x1, 2), round(y2 - y1, 2)]


def _sizes_wh(coco: dict[str, Any]) -> dict[int, tuple[float, float]]:
    """Width and height of every image by its id; infinite where the file does not state them."""
    return {image["id"]: (image.get("width", math.inf), image.get("height", math.inf)) for image in coco["images"]}


def make_clicks(coco: dict[str, Any] | str | Path, *, setting: str, seed: int, kind: str = "centre") -> dict[str, Any]:
    """Draw the click list of an evaluation: which instances are clicked in each image, and where.

    Instances are drawn uniformly without replacement among those with neither `iscrowd` nor `ignore`; all where there are fewer
    than the setting asks for. They are ordered by a hash of seed, image, category and annotation id: nothing else in the file
    matters. With one seed the clicks of a setting are contained in those of the next of `SETTINGS`, for both kinds.

    Args:
        coco: ground truth in COCO form, or the path of its file (`read_coco`); boxes xywh pixels.
        setting: a key of `SETTINGS`.
        seed: any whole number; the protocol has five, 0 to 4.
        kind: a member of `KINDS`.

    Returns:
        `{"setting", "seed", "kind", "prompts": [{"image_id", "category_id", "points": [[x, y], ...], "labels": [1, ...],
        "annotation_ids": [...]}, ...]}`, with "sizes": [[w, h], ...] for boxes, sorted by image and category; points are pixels
        of the original image, rounded to 0.01; of a box that reaches over the border the part inside counts.

    Raises:
        ValueError: unknown setting or kind, broken ground truth, or a box without area inside its image; names the annotation.

    Choice: a hash and not a random generator, whose stream may change between library versions.

    >>> box = {"id": 7, "image_id": 1, "category_id": 2, "bbox": [10, 20, 4, 6]}
    >>> coco = {"images": [{"id": 1}], "categories": [{"id": 2}], "annotations": [box]}
    >>> make_clicks(coco, setting="1/category", seed=0)["prompts"][0]["points"]
    [[12.0, 23.0]]
    """
    for name, value, known in (("setting", setting, SETTINGS), ("kind", kind, KINDS)):
        if value not in known:
            raise ValueError(f"{name}: expected one of {list(known)}, got {value!r}")
    coco = read_coco(coco)
    sizes = _sizes_wh(coco)
    pairs: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for ann in coco["annotations"]:
        if not ann.get("iscrowd") and not ann.get("ignore"):
            pairs.setdefault((ann["image_id"], ann["category_id"]), []).append(ann)
    prompts = []
    for (image_id, category_id), anns in sorted(pairs.items()):
        draws = {ann["id"]: _draw(seed, image_id, category_id, ann["id"]) for ann in anns}
        chosen = sorted(anns, key=lambda ann: (draws[ann["id"]][0], ann["id"]))[: SETTINGS[setting]]
        points = []
        for ann in chosen:
            _, u, v = draws[ann["id"]] if kind == "jitter" else (0, 0.5, 0.5)
            points.append(_point(ann, sizes[image_id], 0.25 + u / 2, 0.25 + v / 2))
        ids = [ann["id"] for ann in chosen]
        prompt = {"image_id": image_id, "category_id": category_id, "points": points}
        prompt |= {"labels": [1] * len(points), "annotation_ids": ids}
        prompts.append(prompt | ({"sizes": [_drawn(ann, sizes[image_id]) for ann in chosen]} if kind == "box" else {}))
    return {"setting": setting, "seed": seed, "kind": kind, "prompts": prompts}


def clicks_hash(clicks: dict[str, Any]) -> str:
    """First 12 hex digits of the sha256 of a click list: printed beside every score made with it.

    >>> clicks_hash({"setting": "1/category", "seed": 0, "kind": "centre", "prompts": []})
    'd4f3d689e670'
    """
    prompts = [prompt | {"points": [[float(v) for v in xy] for xy in prompt["points"]]} for prompt in clicks["prompts"]]
    canonical = json.dumps(clicks | {"prompts": prompts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def offset_shares(offset: float, turn: float) -> tuple[float, float]:
    """The shares of a box's width and height at which a point lies that is off its centre.

    All points of one offset lie on a box of the same centre and shape, `offset` times as large.
    `offset` is 0 at the centre, 1 at the border. `turn`, 0 to 1, goes from the right over the bottom, as if the box were square.

    Source: paper, ablation of the point's position. Choice: the law of the offset, of which the paper has a picture only.

    >>> offset_shares(0.5, 0.0), offset_shares(0.5, 0.125)  # to the right, to the lower right corner
    ((0.75, 0.5), (0.75, 0.75))
    """
    if not 0 <= offset <= 1:
        raise ValueError(f"offset: expected 0 to 1, got {offset}")
    across, down = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    reach = offset / max(abs(across), abs(down)) / 2
    return 0.5 + reach * across, 0.5 + reach * down


def offset_clicks(coco: dict[str, Any], offset: float, seed: int) -> dict[str, Any]:
    """A list of one click per category of an image, off the centre of the objects that `make_clicks` draws (`offset_shares`).

    Lists of one seed differ in the distance only: the seed says which objects are clicked, and in which direction.

    >>> box = {"id": 7, "image_id": 1, "category_id": 2, "bbox": [10, 20, 4, 6]}
    >>> coco = {"images": [{"id": 1}], "categories": [{"id": 2}], "annotations": [box]}
    >>> offset_clicks(coco, 0.0, seed=0)["prompts"][0]["points"]
    [[12.0, 23.0]]
    """
    coco = read_coco(coco)
    clicks = make_clicks(coco, setting="1/category", seed=seed)
    anns = {ann["id"]: ann for ann in coco["annotations"]}
    sizes = _sizes_wh(coco)
    moved = []
    for prompt in clicks["prompts"]:
        image_id, category_id, (chosen,) = prompt["image_id"], prompt["category_id"], prompt["annotation_ids"]
        _, turn, _ = _draw(seed, image_id, category_id, chosen)
        moved.append(prompt | {"points": [_point(anns[chosen], sizes[image_id], *offset_shares(offset, turn))]})
    return {**clicks, "prompts": moved}


def save_clicks(clicks: dict[str, Any], path: str | Path) -> None:
    """Write a click list as JSON, one prompt per line; of one that `load_clicks` would refuse nothing is written."""
    check_clicks(clicks, name=str(path))
    head = ", ".join(f'"{key}": {json.dumps(clicks[key])}' for key in ("setting", "seed", "kind"))
    lines = ",\n".join(json.dumps(prompt) for prompt in clicks["prompts"])
    write_text(path, f'{{{head}, "prompts": [\n{lines}\n]}}\n')


def load_clicks(path: str | Path, coco: dict[str, Any] | str | Path | None = None) -> dict[str, Any]:
    """Read a click list and check it, with `coco` also that it belongs to that ground truth, as `check_clicks` does."""
    return check_clicks(read_json(Path(path)), coco, name=str(path))


def check_clicks(clicks: Any, coco: dict[str, Any] | str | Path | None = None, *, name: str = "clicks") -> dict[str, Any]:
    """Return `clicks` unchanged if it is a click list as `make_clicks` gives it.

    Args:
        coco: ground truth: image, category and annotation ids must exist in it, each clicked annotation must be of that
            image and category and not ignored, and each point must lie in its image where that states its size.
        name: what an error calls the list, for instance its file.

    Raises:
        ValueError: names `name`, the index of the prompt and the field.
    """
    keys = ("setting", "seed", "kind", "prompts")
    if not isinstance(clicks, dict) or set(clicks) != set(keys):
        got = ", ".join(map(str, clicks)) if isinstance(clicks, dict) else type(clicks).__name__
        raise ValueError(f"{name}: expected an object with {', '.join(keys)}, got {got!r:.80}")
    for key, known in (("setting", list(SETTINGS)), ("kind", list(KINDS))):
        if clicks[key] not in known:
            raise ValueError(f"{name}: {key}: expected one of {known}, got {clicks[key]!r:.80}")
    if not is_whole(clicks["seed"]):
        raise ValueError(f"{name}: seed: expected a whole number, got {clicks['seed']!r:.80}")
    if not isinstance(clicks["prompts"], list):
        raise ValueError(f"{name}: prompts: expected a list, got {type(clicks['prompts']).__name__}")
    seen: dict[tuple[int, int], int] = {}
    for i, prompt in enumerate(clicks["prompts"]):
        fault = _prompt_fault(prompt)
        if fault:
            raise ValueError(f"{name}: prompts[{i}].{fault}")
        pair = (prompt["image_id"], prompt["category_id"])
        if seen.setdefault(pair, i) != i:
            raise ValueError(f"{name}: prompts[{i}].image_id: image {pair[0]}, category {pair[1]} is prompts[{seen[pair]}] too")
    if coco is not None:
        _check_against(clicks, read_coco(coco), name)
    return clicks


def _finite_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _prompt_fault(prompt: Any) -> str | None:
    """`field: what is wrong` of the first fault in one prompt, or None."""
    keys = ("image_id", "category_id", "points", "labels", "annotation_ids")
    if not isinstance(prompt, dict) or set(prompt) - {"sizes"} != set(keys):
        got = ", ".join(map(str, prompt)) if isinstance(prompt, dict) else type(prompt).__name__
        return f"keys: expected {', '.join(keys)}, got {got!r:.80}"
    for key in ("image_id", "category_id"):
        if not is_whole(prompt[key]):
            return f"{key}: expected a whole number, got {prompt[key]!r:.80}"
    points, labels, ids = prompt["points"], prompt["labels"], prompt["annotation_ids"]
    if not isinstance(points, list) or not points:
        return f"points: expected a list of [x, y], got {points!r:.80}"
    for xy in points:
        if not _finite_pair(xy):
            return f"points: expected finite [x, y], got {xy!r:.80}"
    sizes = prompt.get("sizes", points)
    if not isinstance(sizes, list) or len(sizes) != len(points):
        return f"sizes: expected {len(points)} of [width, height], got {sizes!r:.80}"
    for wh in prompt.get("sizes", []):
        if not _finite_pair(wh) or min(wh) < 0:
            return f"sizes: expected finite [width, height] of 0 or more, got {wh!r:.80}"
    if not isinstance(labels, list) or len(labels) != len(points) or any(v not in (0, 1) or not is_whole(v) for v in labels):
        return f"labels: expected {len(points)} of 1 or 0, got {labels!r:.80}"
    if 1 not in labels:
        return f"labels: expected at least one 1, got {labels!r:.80}"
    if not isinstance(ids, list) or not all(is_whole(v) for v in ids) or len(ids) != sum(labels) or len(set(ids)) != len(ids):
        return f"annotation_ids: expected {sum(labels)} different whole numbers, one per label 1, got {ids!r:.80}"
    return None


def _check_against(clicks: dict[str, Any], coco: dict[str, Any], name: str) -> None:
    """Raise if a prompt names something that the ground truth does not have."""
    sizes = _sizes_wh(coco)
    categories = {category["id"] for category in coco["categories"]}
    anns = {ann["id"]: ann for ann in coco["annotations"]}
    for i, prompt in enumerate(clicks["prompts"]):
        where = f"{name}: prompts[{i}]"
        image_id, category_id = prompt["image_id"], prompt["category_id"]
        if image_id not in sizes:
            raise ValueError(f"{where}.image_id: no image {image_id} in the ground truth")
        if category_id not in categories:
            raise ValueError(f"{where}.category_id: no category {category_id} in the ground truth")
        for k, ann_id in enumerate(prompt["annotation_ids"]):
            ann = anns.get(ann_id)
            if ann is None:
                raise ValueError(f"{where}.annotation_ids[{k}]: no annotation {ann_id} in the ground truth")
            if (ann["image_id"], ann["category_id"]) != (image_id, category_id):
                of = f"image {ann['image_id']}, category {ann['category_id']}"
                raise ValueError(f"{where}.annotation_ids[{k}]: {ann_id} is of {of}, not {image_id}, {category_id}")
            if ann.get("iscrowd") or ann.get("ignore"):
                raise ValueError(f"{where}.annotation_ids[{k}]: {ann_id} is crowd or ignored, no object to click")
        size = sizes[image_id]
        for k, (x, y) in enumerate(prompt["points"]):
            if not (0 <= x <= size[0] and 0 <= y <= size[1]):
                raise ValueError(f"{where}.points[{k}]: {[x, y]} is outside the image, width and height {list(size)}")
