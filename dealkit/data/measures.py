"""Measures of boxes and their surroundings: size, local density, contrast, what looks suspicious; images that look alike.

`N` objects, `M` images; `H`, `W` image height and width. Boxes are xyxy pixels of the image as stored. All are plain functions
of arrays, computed for many objects at once.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torchvision.ops import box_iou

DENSITY_RADIUS = 32.0
"""Pixels within which the centres of other objects count as density: the longest side that is still small."""
THUMBNAIL = 32
"""Side of the grey thumbnails that near-duplicates are looked for in, pixels."""

SUSPICIOUS: dict[str, str] = {
    "duplicate": "IoU of 0.8 or more with an earlier box of the image",
    "thin": "one side at least 6 times the other",
    "under 2 px": "shorter side under 2 px",
    "odd size": "side at least 5 times, or at most a fifth of, the median of its category in its source (of 20 objects or more)",
    "fills image": "more than half of the image",
}
"""Reason -> rule by which a box should be looked at; none of them makes it wrong."""


def box_sizes(boxes: NDArray) -> NDArray[np.float32]:
    """Square root of the area of (N, 4) xyxy boxes, pixels.

    >>> box_sizes(np.array([[0, 0, 4, 9]])).tolist()
    [6.0]
    """
    boxes = boxes.reshape(-1, 4)
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float32)


def local_density(
    boxes: NDArray, image: NDArray | None = None, *, radius: float = DENSITY_RADIUS, counted: NDArray | None = None
) -> NDArray[np.int64]:
    """Other objects of the image whose centre is less than `radius` pixels from that of each object.

    Args:
        image: (N,) which image each lies in; None: all in one.
        counted: (N,) bool, those that count as others; None: all.

    >>> local_density(np.array([[0, 0, 4, 4], [20, 0, 24, 4], [40, 0, 44, 4]])).tolist()
    [1, 2, 1]
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    image = np.zeros(len(boxes)) if image is None else image
    counted = np.ones(len(boxes), bool) if counted is None else counted
    centres = (boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2
    places = np.column_stack([centres, 2 * radius * image])  # images are layers, too far apart to see each other
    if not counted.any():
        return np.zeros(len(boxes), np.int64)
    near = cKDTree(places[counted]).query_ball_point(places, np.nextafter(radius, 0), return_length=True)
    return near.astype(np.int64) - counted


def suspicious_boxes(boxes: NDArray, image: NDArray, kinds: NDArray, sizes_wh: NDArray) -> NDArray:
    """Why each box should be looked at: reasons of `SUSPICIOUS` joined by commas, empty for most.

    Args:
        boxes: (N, 4) xyxy.
        image: (N,) ascending, which image each lies in.
        kinds: (N,) what sizes are compared within: source and category.
        sizes_wh: (N, 2) width and height of its image.

    >>> boxes = np.array([[0.0, 0, 40, 5], [50, 50, 51, 52], [0, 0, 90, 90]])
    >>> suspicious_boxes(boxes, np.zeros(3), np.zeros(3), np.full((3, 2), 100)).tolist()
    ['thin', 'under 2 px', 'fills image']
    """
    wh = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    shorter, longer = wh.min(1), wh.max(1)
    sizes, odd = np.sqrt(wh.prod(1)), np.zeros(len(boxes), bool)
    _, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    order = np.lexsort([sizes, kind])
    middle = np.cumsum(counts) - counts + counts // 2  # the upper of two medians
    if len(boxes):
        ratio = sizes / sizes[order][middle][kind]
        odd = (counts[kind] >= 20) & ((ratio >= 5) | (ratio <= 0.2))
    rules = {
        "duplicate": _duplicates(boxes, image),
        "thin": longer >= 6 * shorter,
        "under 2 px": shorter < 2,
        "odd size": odd,
        "fills image": wh.prod(1) > 0.5 * sizes_wh.prod(1),
    }
    found = np.full(len(boxes), "", dtype=object)
    for reason, chosen in rules.items():
        found[chosen] = [f"{before}, {reason}" if before else reason for before in found[chosen]]
    return found


def _duplicates(boxes: NDArray, image: NDArray, chunk: int = 1000) -> NDArray[np.bool_]:
    """Boxes that overlap an earlier one of their image with IoU 0.8 or more."""
    found = np.zeros(len(boxes), bool)
    starts = np.flatnonzero(np.diff(image, prepend=-1))
    for start, end in zip(starts, np.append(starts, len(boxes))[1:], strict=True):
        all_boxes = torch.from_numpy(np.float32(boxes[start:end]))
        for row in range(0, end - start, chunk):
            earlier = torch.tril(box_iou(all_boxes[row : row + chunk], all_boxes) >= 0.8, diagonal=row - 1)
            found[start + row : start + row + len(earlier)] = earlier.any(1).numpy()
    return found


def ring_contrast(image: NDArray[np.uint8], boxes: NDArray) -> NDArray[np.float32]:
    """How much the pixels of each box differ from the ring around it: 0 (not at all) to 1.

    Root of the mean squared distance of a box's pixels from the mean of its ring, less the variance within the ring; mean over
    channels. The ring is half the size of the object wide, 2 to 16 pixels; pixels of other boxes do not belong to it if
    enough others do. Noise and texture that object and surroundings share cancel out, and an object with a bright and a dark
    side has a contrast although its mean has none.

    Choice: of six measures this one and its like without the subtraction rank 3,907 objects of procedural scenes best by the
    contrast they were drawn with (Spearman 0.84 and 0.88; means of box and ring 0.72, without other boxes' pixels 0.80); the
    other one would give a box with nothing but noise a contrast.

    Args:
        image: (H, W, 3) RGB. boxes: (N, 4) xyxy, inside the image.

    >>> image = np.full((20, 20, 3), 51, dtype=np.uint8)
    >>> image[5:10, 5:10] = 102
    >>> ring_contrast(image, np.array([[5.0, 5.0, 10.0, 10.0], [12.0, 12.0, 15.0, 15.0]])).round(3)
    array([0.2, 0. ], dtype=float32)
    """
    margin = np.clip(np.rint(0.5 * box_sizes(boxes)), 2, 16).astype(np.int64)
    inner, outer, free = _surroundings(image, boxes, margin)
    contrast = np.zeros(len(boxes), np.float32)
    for i, ((x1, y1, x2, y2), (left, top, right, bottom)) in enumerate(zip(inner, outer, strict=True)):
        step = 1 + max(right - left, bottom - top) // 256  # of a large object every other pixel is enough
        rows, columns = slice(top, bottom, step), slice(left, right, step)
        inside = np.zeros(((bottom - top - 1) // step + 1, (right - left - 1) // step + 1))
        inside[-((top - y1) // step) : -((top - y2) // step), -((left - x1) // step) : -((left - x2) // step)] = 1
        ring = free[rows, columns].ravel().astype(float)
        if ring.sum() < 8:
            ring = 1 - inside.ravel()
        weights = np.stack([inside.ravel(), ring])
        total = weights.sum(1, keepdims=True)
        if not total.all():
            continue  # the box is the whole image
        pixels = image[rows, columns].reshape(-1, 3) / 255.0
        mean, square = weights @ pixels / total, weights @ pixels**2 / total  # (2, 3): of box and ring, per channel
        distance = square[0] - 2 * mean[0] * mean[1] + mean[1] ** 2
        contrast[i] = np.sqrt(np.maximum(distance - (square[1] - mean[1] ** 2), 0)).mean()
    return contrast


def _surroundings(image: NDArray, boxes: NDArray, margin: NDArray) -> tuple[list[list[int]], list[list[int]], NDArray[np.bool_]]:
    """The boxes in whole pixels, these with a margin (N,) around them inside the image, and (H, W) the pixels of no box."""
    height, width = image.shape[:2]
    inner = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1).astype(np.int64).reshape(-1, 4)
    low = np.maximum(inner[:, :2] - margin[:, None], 0)
    high = np.minimum(inner[:, 2:] + margin[:, None], [width, height])
    free = np.ones((height, width), dtype=bool)
    for x1, y1, x2, y2 in inner.tolist():
        free[y1:y2, x1:x2] = False
    return inner.tolist(), np.concatenate([low, high], axis=1).tolist(), free


def near_duplicates(thumbnails: NDArray[np.uint8], correlation: float = 0.98) -> NDArray[np.int64]:
    """Pairs of images whose thumbnails look alike: (P, 2) rows i < j, sorted.

    Choice: not the hashes by which a TinySet finds copies. They see nothing in a nearly even infrared sky, of which this finds
    copies across the splits of a real source, `sirst`. It compares all with all, which takes too long for a TinySet.

    Args:
        thumbnails: (M, S, S) grey.
        correlation: of their grey levels, from which a pair counts. Images of one colour are like nothing.

    >>> a = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    >>> near_duplicates(np.concatenate([a, 15 - a, 2 * a + 9])).tolist()
    [[0, 2]]
    """
    flat = thumbnails.reshape(len(thumbnails), int(np.prod(thumbnails.shape[1:]))).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.where(length > flat.shape[1] ** 0.5, flat / np.maximum(length, 1e-6), 0)  # a spread under one grey level
    pairs = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(flat), 1000):
        i, j = np.nonzero(flat[start : start + 1000] @ flat[start:].T >= correlation)
        pairs.append(np.column_stack([i, j])[i < j] + start)
    return np.concatenate(pairs)


def ring_spread(image: NDArray[np.uint8], boxes: NDArray) -> NDArray[np.float32]:
    """How restless the surroundings of each box are: the standard deviation of the grey levels around it, 0 to 0.5.

    The ring is as wide as the object, 4 to 32 pixels; pixels of other boxes do not belong to it if at least 8 others do.

    Args:
        image: (H, W, 3) RGB. boxes: (N, 4) xyxy, inside the image.

    >>> image = np.zeros((20, 20, 3), dtype=np.uint8)
    >>> image[:, ::2] = 255
    >>> ring_spread(image, np.array([[8.0, 8.0, 12.0, 12.0]])).round(3)
    array([0.5], dtype=float32)
    """
    inner, outer, free = _surroundings(image, boxes, np.clip(np.rint(box_sizes(boxes)), 4, 32).astype(np.int64))
    spread = np.zeros(len(boxes), np.float32)
    for i, ((x1, y1, x2, y2), (left, top, right, bottom)) in enumerate(zip(inner, outer, strict=True)):
        here = np.s_[top:bottom, left:right]
        ring = free[here]
        if np.count_nonzero(ring) < 8:
            ring = np.ones_like(ring)
            ring[y1 - top : y2 - top, x1 - left : x2 - left] = False
        if ring.any():
            spread[i] = image[here][ring].mean(1).std() / 255
    return spread


def edge_width(image: NDArray[np.uint8], boxes: NDArray) -> NDArray[np.float32]:
    """How wide the edges of each object are, pixels: the range of its grey levels over its steepest slope.

    An ideal edge blurred by a standard deviation of s has a width of 2.5 s, and a sharp one of 2 pixels. The range is that
    from the 5th to the 95th percentile of the box and 2 pixels around it, the slope the 97.5th percentile of the central
    differences there. Choice: percentiles, since a single noisy pixel would decide otherwise.

    Args:
        image: (H, W, 3) RGB. boxes: (N, 4) xyxy, inside the image. 0 is where nothing differs.

    >>> image = np.zeros((20, 20, 3), dtype=np.uint8)
    >>> image[6:12, 6:12] = 200
    >>> edge_width(image, np.array([[6.0, 6.0, 12.0, 12.0]]))
    array([2.], dtype=float32)
    """
    wide = np.zeros(len(boxes), np.float32)
    for i, (x1, y1, x2, y2) in enumerate(_surroundings(image, boxes, np.full(len(boxes), 2))[1]):
        grey = image[y1:y2, x1:x2].mean(2) / 255
        if min(grey.shape) < 2:
            continue
        slope = np.maximum(*(np.abs(part) for part in np.gradient(grey)))
        (bottom, top), steep = np.percentile(grey, (5, 95)), np.percentile(slope, 97.5)
        wide[i] = (top - bottom) / steep if steep > 1e-6 else 0.0
    return wide


def mean_colours(image: NDArray[np.uint8], boxes: NDArray) -> NDArray[np.float32]:
    """Mean colour of the middle of each box, half as wide and high: (N, 3), 0 to 1.

    >>> mean_colours(np.full((8, 8, 3), 51, dtype=np.uint8), np.array([[1.0, 1.0, 5.0, 5.0]])).round(2).tolist()
    [[0.2..., 0.2..., 0.2...]]
    """
    colours = np.zeros((len(boxes), 3), np.float32)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 4
    low = np.clip(np.floor(centre - half), 0, np.array(image.shape[1::-1]) - 1).astype(np.int64)
    high = np.maximum(np.ceil(centre + half).astype(np.int64), low + 1)
    for i, (x1, y1, x2, y2) in enumerate(np.concatenate([low, high], axis=1).reshape(-1, 4).tolist()):
        colours[i] = image[y1:y2, x1:x2].mean((0, 1)) / 255
    return colours
