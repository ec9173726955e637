"""Label-efficient regimes: from a fully annotated COCO file to one with poorer, fewer or no labels; pure and seeded.

Every draw is a hash of the seed and of ids, so the same seed gives the same result whatever the order of the file and whatever
else is in it, and smaller regimes lie within larger ones. Image, category and annotation ids are kept; what is `iscrowd` or
`ignore` is no label of an object and stays as it is in every regime but `zero`. Segmentations are left out where they would tell
what the regime hides.

Source: the regimes of arXiv 2604.02773, main table; what it leaves open is marked `Choice:`.
"""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

Coco = dict[str, Any]
"""COCO detection data, as `json.load` gives it; boxes xywh pixels."""


def box_noise(coco: Coco, *, level: float, seed: int = 0) -> Coco:
    """Every box moved and scaled at random: the regime of inaccurate boxes.

    For a box with centre (cx, cy), width w and height h, with four independent u ~ Uniform(-level, level):

        cx' = cx + u1 w,  cy' = cy + u2 h,  w' = (1 + u3) w,  h' = (1 + u4) h

    then cut off at the image's border; a side that this leaves shorter than a pixel (or than it was, if that is less) is widened
    to it within the image. The draws do not depend on `level`: noise of 40 % is that of 20 %, twice as far.

    Args:
        level: 0 (no noise) to 0.5; up to there the centre stays inside the image.

    Raises:
        ValueError: `level` out of range, or an annotation without a finite box of positive size; names it.

    Source: the law of DN-TOD (arXiv 2401.08056, *inaccurate bounding boxes*) and OA-MIL (arXiv 2207.09697). Choice: pixels are
    not rounded as there, since on a box of 4 px that alone is noise of 10 %.

    >>> box = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [40, 40, 10, 20], "area": 200}
    >>> coco = {"images": [{"id": 1, "width": 100, "height": 100}], "categories": [{"id": 1}], "annotations": [box]}
    >>> x, y, w, h = box_noise(coco, level=0.2)["annotations"][0]["bbox"]
    >>> abs(x + w / 2 - 45) <= 2 and abs(y + h / 2 - 50) <= 4 and 8 <= w <= 12 and 16 <= h <= 24
    True
    """
    if not 0 <= level <= 0.5:
        raise ValueError(f"level: expected a share from 0 to 0.5, got {level}")
    sizes, rows = _sizes(coco), list(coco["annotations"])
    for n, row in enumerate(rows):
        if _is_crowd(row):
            continue
        (x, y, w, h), draws = _box(row), uniforms("noise", seed, row["image_id"], row["id"], number=4)
        u1, u2, u3, u4 = (level * (2 * draw - 1) for draw in draws)
        limits = sizes[row["image_id"]]
        across = _within(x + w / 2 + u1 * w, (1 + u3) * w, limits[0], min(1.0, w))
        down = _within(y + h / 2 + u2 * h, (1 + u4) * h, limits[1], min(1.0, h))
        rows[n] = _without(row, "segmentation") | _bbox(across, down)
    return coco | {"annotations": rows}


def labelled_share(coco: Coco, *, share: float, seed: int = 0) -> Coco:
    """A share of the images keeps its labels: the semi-supervised regime.

    `ceil(share x images)` images are drawn, at least one if there is any; those of a smaller share are among those of a larger.
    `images` and `annotations` hold these only, so that a plain detector never takes an unlabelled image for an empty one; the
    records of all other images stand under the further key `unlabelled`.

    Choice: images are drawn one by one, not by category; a category can be missing among 1 %, as it can in a real data set.

    >>> coco = {"images": [{"id": i} for i in range(1, 11)], "annotations": [], "categories": []}
    >>> reduced = labelled_share(coco, share=0.1)
    >>> len(reduced["images"]), len(reduced["unlabelled"])
    (1, 9)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected above 0 and up to 1, got {share}")
    images = _lists(coco)["images"]
    order = sorted((row["id"] for row in images), key=lambda i: (uniforms("semi", seed, i, number=1), i))
    chosen = set(order[: math.ceil(round(share * len(order), 6))])
    return coco | {
        "images": [row for row in images if row["id"] in chosen],
        "annotations": [row for row in coco["annotations"] if row["image_id"] in chosen],
        "unlabelled": [row for row in images if row["id"] not in chosen],
    }


def sparse_shot(coco: Coco, *, k: int, seed: int = 0) -> Coco:
    """At most `k` boxes of every category in every image are labelled; the other objects are there, but nobody marked them.

    Those of a smaller `k` are among those of a larger one.

    Choice: k per category *and image*, so that every category of an image keeps a label; the paper says "k boxes annotated".

    >>> rows = [{"id": i, "image_id": 1, "category_id": 1 + i % 2, "bbox": [i, 0, 2, 2]} for i in range(1, 8)]
    >>> reduced = sparse_shot({"images": [{"id": 1}], "categories": [{"id": 1}, {"id": 2}], "annotations": rows}, k=2)
    >>> [row["category_id"] for row in reduced["annotations"]].count(1), len(reduced["annotations"])
    (2, 4)
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    pairs: dict[tuple[int, int], list[int]] = {}
    for row in _lists(coco)["annotations"]:
        if not _is_crowd(row):
            pairs.setdefault((row["image_id"], row["category_id"]), []).append(row["id"])
    kept: set[int] = set()
    for (image, category), ids in pairs.items():
        kept |= set(sorted(ids, key=lambda i, of=(image, category): (uniforms("sparse", seed, *of, i, number=1), i))[:k])
    return coco | {"annotations": [row for row in coco["annotations"] if _is_crowd(row) or row["id"] in kept]}


def centre_points(coco: Coco, *, seed: int = 0) -> Coco:
    """Every box becomes its centre: the point-supervised regime.

    `point` [x, y], pixels, replaces `bbox`, `area` and `segmentation`, which would tell the size. Such a file is not for
    detectors that need boxes: see `for_training`. `seed` changes nothing; all regimes take one.

    >>> box = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [40, 40, 10, 20], "area": 200}
    >>> centre_points({"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [box]})["annotations"]
    [{'id': 7, 'image_id': 1, 'category_id': 1, 'point': [45.0, 50.0]}]
    """
    rows = list(_lists(coco)["annotations"])
    for n, row in enumerate(rows):
        if not _is_crowd(row):
            x, y, w, h = _box(row)
            rows[n] = _without(row, "bbox", "area", "segmentation") | {"point": [x + w / 2, y + h / 2]}
    return coco | {"annotations": rows}


def for_training(coco: Coco, *, side: float = 16.0) -> Coco:
    """A regime as detectors and methods learn from it: points as boxes of one size, unlabelled images covered by a crowd box.

    A point becomes a square of `side` pixels round it, cut off at the image's border. Source: the first phase of point-supervised
    teachers (Point Teacher) and P2BNet (arXiv 2207.06827) start from boxes of fixed size, too. Choice: the side is the border
    between AI-TOD's tiny and small, without a look at any data set's sizes.

    An image under `unlabelled` becomes one of which nothing is known: an `iscrowd` box covers it. So a detector takes it neither
    for full nor for empty, see `dealkit.baselines.detector`. Annotation ids go on behind the largest there is.

    >>> image, row = {"id": 1, "width": 100, "height": 100}, {"id": 7, "image_id": 1, "category_id": 1, "point": [45.0, 4.0]}
    >>> coco = {"images": [image], "unlabelled": [image | {"id": 4}], "categories": [{"id": 1}], "annotations": [row]}
    >>> [row["bbox"] for row in for_training(coco)["annotations"]]
    [[37.0, 0.0, 16.0, 12.0], [0, 0, 100, 100]]
    """
    if side <= 0:
        raise ValueError(f"side: expected a positive number of pixels, got {side}")
    hidden, rows = coco.get("unlabelled", []), list(_lists(coco)["annotations"])
    sizes, last = _sizes(coco), max((row["id"] for row in rows), default=0)
    for n, row in enumerate(rows):
        if "point" in row:
            limits = sizes[row["image_id"]]
            rows[n] = row | _bbox(*(_within(at, side, limit, 1.0) for at, limit in zip(row["point"], limits, strict=True)))
    for n, image in enumerate(sorted(hidden, key=lambda image: image["id"]), last + 1):
        box = {"id": n, "image_id": image["id"], "category_id": coco["categories"][0]["id"]}
        rows.append(box | _bbox((0, image["width"]), (0, image["height"])) | {"iscrowd": 1})
    return _without(coco, "unlabelled") | {"images": coco["images"] + hidden, "annotations": rows}


REGIMES: dict[str, Callable[..., Coco]] = {
    "full": lambda coco, *, seed=0: dict(_lists(coco)),
    **{f"noise{n}": partial(box_noise, level=n / 100) for n in (20, 40)},
    **{f"semi{n}": partial(labelled_share, share=n / 100) for n in (1, 5, 10)},
    **{f"sparse{k}": partial(sparse_shot, k=k) for k in (1, 3, 5)},
    "point": centre_points,
    "zero": lambda coco, *, seed=0: _lists(coco) | {"images": [], "annotations": [], "unlabelled": coco["images"]},
}
"""The regimes of the benchmark: COCO and `seed` -> COCO."""


def apply_regime(coco: Coco, name: str, *, seed: int = 0) -> Coco:
    """The regime called `name`, a key of `REGIMES`; the result says under `info` which regime and seed it is.

    >>> apply_regime({"images": [], "annotations": [], "categories": []}, "noise40", seed=3)["info"]
    {'regime': 'noise40', 'seed': 3}
    """
    if name not in REGIMES:
        raise ValueError(f"regime: expected one of {', '.join(REGIMES)}, got {name!r}")
    info = coco.get("info") if isinstance(coco, dict) and isinstance(coco.get("info"), dict) else {}
    return REGIMES[name](coco, seed=seed) | {"info": info | {"regime": name, "seed": seed}}


def uniforms(*key: Any, number: int) -> tuple[float, ...]:
    """Up to four numbers, uniform in [0, 1), that depend on nothing but the key.

    >>> uniforms("noise", 0, 1, 7, number=2) == uniforms("noise", 0, 1, 7, number=4)[:2]
    True
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "big") / 2**64 for i in range(number))


def _within(centre: float, length: float, limit: float, least: float) -> tuple[float, float]:
    """Ends of an interval cut off at 0 and `limit`, at least `least` long."""
    low, high = max(centre - length / 2, 0.0), min(centre + length / 2, float(limit))
    if high - low < least:
        middle = min(max((low + high) / 2, least / 2), limit - least / 2)
        low, high = middle - least / 2, middle + least / 2
    return low, high


def _bbox(across: tuple[float, float], down: tuple[float, float]) -> Coco:
    (x1, x2), (y1, y2) = across, down
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _sizes(coco: Coco) -> dict[int, tuple[float, float]]:
    return {row["id"]: (row["width"], row["height"]) for row in _lists(coco)["images"]}


def _is_crowd(row: Coco) -> bool:
    return bool(row.get("iscrowd") or row.get("ignore"))


def _without(row: Coco, *fields: str) -> Coco:
    return {key: value for key, value in row.items() if key not in fields}


def _box(row: Coco) -> list[float]:
    box = row.get("bbox")
    numbers = isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
    if not numbers or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        raise ValueError(f"annotation {row.get('id')}: bbox: expected finite [x, y, w, h] with an area, got {box!r}")
    return list(box)


def _lists(coco: Any) -> Coco:
    """`coco`, if it has the three lists of COCO data."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(key), list):
            raise ValueError(f"coco: {key}: expected an object with the lists images, annotations and categories")
    return coco
