"""What goes into the model and what comes out of it, in NumPy: images, clicks, overlaps, duplicates.

Choice: own overlaps, since torchvision's take longer to load than a click to answer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dealkit.data.images import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from torch import Tensor

Prompt = tuple[Any, Any] | tuple[Any, Any, Any]
"""`(points, labels or None)` or `(points, labels or None, boxes)` of one category."""


def like(values: ArrayLike, given: "Tensor | np.ndarray") -> "Tensor | np.ndarray":
    """Values as `given` is: an array, or a tensor."""
    return np.asarray(values) if isinstance(given, np.ndarray) else given.new_tensor(np.asarray(values))


def iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """(N, M) float32: IoU of boxes (N, 4) with boxes (M, 4), both xyxy; 0 for two boxes without area.

    >>> iou([[0, 0, 2, 2]], [[1, 0, 3, 2], [4, 4, 5, 5]]).round(4).tolist()  # 2 / 6, and none
    [[0.33329999446868896, 0.0]]
    """
    a, b = (np.asarray(boxes, dtype=np.float32).reshape(-1, 4) for boxes in (a, b))
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    inter = sides.clip(min=0).prod(-1)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
    union = area_a[:, None] + area_b - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def close_pairs(boxes: "Sequence[Tensor | np.ndarray]", overlap: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows a and b (P,) of all pairs of boxes (N, 4) xyxy, given in parts, with an IoU above `overlap`, each once.

    >>> close_pairs([np.array([[0, 0, 2, 2], [5, 5, 6, 6]]), np.array([[0, 0, 2, 3]])], 0.5)  # an IoU of 4 / 6
    (array([0]), array([2]))
    """
    if isinstance(boxes[0], np.ndarray):
        every = np.concatenate(boxes)
        return np.nonzero(np.triu(iou(every, every) > overlap, 1))
    import torch

    from dealkit.boxes import overlapping

    a, b, _, shares = overlapping(torch.cat(list(boxes)))  # of a map there may be a million
    return a[shares > overlap].numpy(), b[shares > overlap].numpy()


def nms(boxes: ArrayLike, scores: ArrayLike, overlap: float) -> NDArray[np.int64]:
    """Rows that stay, strongest first: of two boxes (N, 4) xyxy with an IoU above `overlap` the one with the higher score (N,).

    >>> nms([[0, 0, 2, 2], [0, 0, 2, 3], [5, 5, 6, 6]], [0.5, 0.9, 0.1], 0.6).tolist()  # an IoU of 4 / 6
    [1, 2]
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    ordered = np.asarray(boxes).reshape(-1, 4)[order]
    over, stays = iou(ordered, ordered) > overlap, np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if stays[i]:
            stays[i + 1 :] &= ~over[i, i + 1 :]
    return order[stays]


def read_prompts(prompts: Sequence[Prompt], size_hw: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Points (P, 2) float32, labels (P,) int64 and sizes (P, 2) of every prompt: `predictor.read_prompts` as arrays."""
    height, width = size_hw
    sets = []
    for n, (points, labels, *more) in enumerate(prompts):
        where = f"prompts[{n}]: " if len(prompts) > 1 else ""
        given = (() if rows is None else rows for rows in (points, more[0] if more else ()))
        p, b = (np.asarray(rows).astype(np.float32) for rows in given)
        for name, rows, columns in (("points [[x, y], ...]", p, 2), ("boxes [[x1, y1, x2, y2], ...]", b, 4)):
            if rows.size and (rows.ndim != 2 or rows.shape[1] != columns):
                raise ValueError(f"{where}expected {name}, got shape {rows.shape}")
        p, b = p.reshape(-1, 2), b.reshape(-1, 4)
        for i in np.flatnonzero(~np.isfinite(b).all(1) | (b[:, 2:] <= b[:, :2]).any(1))[:1]:
            raise ValueError(f"{where}boxes[{i}]: not xyxy: {b[i].tolist()}")
        given = np.ones(len(p)) if labels is None else np.asarray(labels).reshape(-1)
        labels = np.concatenate([given, np.ones(len(b))]).astype(np.int64)
        sizes = np.concatenate([np.zeros_like(p), b[:, 2:] - b[:, :2]])
        p = np.concatenate([p, (b[:, :2] + b[:, 2:]) / 2])
        outside = ~((p >= 0) & (p <= np.float32([width, height]))).all(1)
        if outside.any():
            expected = f"expected x in 0..{width}, y in 0..{height}"
            raise ValueError(f"{where}point {p[outside][0].tolist()} is outside the image; {expected}")
        sets.append((p, labels, sizes))
    return sets


def stack(sets: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `read_prompts` gives as one batch: points (N, P, 2), labels (N, P) with -1 for padding, sizes (N, P, 2).

    Raises:
        ValueError: labels that are not 1 or 0, one per point, or a set without a point on an object; names the set.
    """
    longest = max(len(points) for points, *_ in sets)
    batch = {"points": np.zeros((len(sets), longest, 2), np.float32), "labels": np.full((len(sets), longest), -1)}
    batch["sizes"] = np.zeros_like(batch["points"])
    for n, (points, labels, sizes) in enumerate(sets):
        if labels.shape != points.shape[:1] or not np.isin(labels, (0, 1)).all() or not (labels == 1).any():
            raise ValueError(f"prompt set {n}: expected labels 1 or 0, one per point, at least one 1, got {labels.tolist()}")
        for name, rows in (("points", points), ("labels", labels), ("sizes", sizes)):
            batch[name][n, : len(rows)] = rows
    return batch


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    """The image (3, h, w) uint8 at a scale, at least a pixel high and wide.

    >>> resized(np.zeros((3, 5, 8), np.uint8), 0.5).shape
    (3, 2, 4)
    """
    from PIL import Image

    _, h, w = image.shape
    size = max(round(w * scale), 1), max(round(h * scale), 1)
    return np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def to_pixels(image: np.ndarray, multiple: int = 32) -> np.ndarray:
    """The network's input of an image (3, h, w) uint8: (1, 3, H, W) float32, normalised, with zeros to the right and below."""
    std, mean = (np.float32(rgb)[:, None, None] for rgb in (IMAGENET_STD, IMAGENET_MEAN))
    _, h, w = image.shape
    pixels = np.zeros((1, 3, -(-h // multiple) * multiple, -(-w // multiple) * multiple), np.float32)
    pixels[0, :, :h, :w] = image * (1 / (255 * std)) - mean / std
    return pixels
