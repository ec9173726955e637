"""Boxes of an answer in NumPy: overlaps and duplicates. torchvision's take longer to load than a click to answer."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
