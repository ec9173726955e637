"""Large images as overlapping tiles, and which objects a tile shows.

`N` objects; a window is `(x1, y1, x2, y2)` in whole pixels of the image.
"""

import numpy as np


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of one axis begin: `tile - overlap` apart, the last one moved back to end with the image.

    Anything up to `overlap` pixels long lies whole in at least one tile; an image up to `tile` pixels long is one tile.

    Raises:
        ValueError: a length below 1, or an overlap outside 0 to `tile - 1`.

    >>> tile_starts(2500, 1024, 128)  # 0..1024, 896..1920, 1476..2500
    [0, 896, 1476]
    """
    if length < 1 or not 0 <= overlap < tile:
        raise ValueError(f"tile_starts: expected length >= 1 and 0 <= overlap < tile, got {length}, {overlap}, {tile}")
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def tile_windows(width: int, height: int, tile: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Windows that cover an image, row by row; the whole image as the only one if neither side is longer than a tile.

    >>> tile_windows(150, 80, 100, 20)
    [(0, 0, 100, 80), (50, 0, 150, 80)]
    """
    return [
        (x, y, min(x + tile, width), min(y + tile, height))
        for y in tile_starts(height, tile, overlap)
        for x in tile_starts(width, tile, overlap)
    ]


def clip_polygon(polygon: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a polygon inside a window: (Q, 2) xy, Q = 0 if there is none.

    A concave polygon that falls into pieces comes back as one outline joined along the border; its area is right.

    Source: Sutherland and Hodgman, Reentrant polygon clipping, CACM 17(1), 1974.

    >>> clip_polygon(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), (0, 0, 2, 9)).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 4.0]]
    """
    for axis, limit, sign in ((0, window[0], 1), (1, window[1], 1), (0, window[2], -1), (1, window[3], -1)):
        kept = []
        for a, b in zip(np.roll(polygon, 1, axis=0), polygon, strict=True):
            da, db = sign * (a[axis] - limit), sign * (b[axis] - limit)
            if da * db < 0:
                kept.append(a + (b - a) * (da / (da - db)))
            if db >= 0:
                kept.append(b)
        polygon = np.array(kept, dtype=polygon.dtype).reshape(-1, 2)
    return polygon


def polygon_area(polygon: np.ndarray) -> float:
    """Area of an outline (P, 2), whatever its direction; 0 for fewer than three corners.

    >>> polygon_area(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]))
    8.0
    """
    x, y = polygon.astype(np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def objects_in_window(
    boxes: np.ndarray, window: tuple[int, int, int, int], polygons: tuple[np.ndarray | None, ...] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a tile shows of the objects of its image.

    An object with a polygon is measured and cut by it: a thin slanted ship fills little of its box.

    Args:
        boxes: (N, 4) xyxy pixels of the image.
        polygons: per object (P, 2) xy or None; empty if no object has one.

    Returns:
        rows (K,) int64 of the objects with any visible area, their boxes (K, 4) float32 xyxy pixels of the tile, and the
        share (K,) of each that is visible, above 0 and up to 1.

    >>> rows, inside, visible = objects_in_window(np.float32([[90, 0, 110, 10], [0, 0, 5, 5]]), (95, 0, 195, 100))
    >>> rows.tolist(), inside.tolist(), visible.tolist()
    ([0], [[0.0, 0.0, 15.0, 10.0]], [0.75])
    """
    boxes = boxes.astype(np.float32).reshape(-1, 4)
    low, high = np.float32(window[:2]), np.float32(window[2:])
    inside = np.concatenate([np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)], axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1)
    visible = (inside[:, 2:] - inside[:, :2]).astype(np.float64).prod(axis=1) / np.maximum(area, 1e-12)
    for i in np.flatnonzero((visible > 0) & (visible < 1)):
        if polygons and (polygon := polygons[i]) is not None and (whole := polygon_area(polygon)) > 0:
            part = clip_polygon(polygon.astype(np.float64), window)
            visible[i] = polygon_area(part) / whole
            if visible[i] > 0:
                tight = np.concatenate([part.min(axis=0), part.max(axis=0)])
                inside[i] = np.clip(tight, inside[i, [0, 1, 0, 1]], inside[i, [2, 3, 2, 3]])
    inside -= np.float32([*window[:2], *window[:2]])
    rows = np.flatnonzero((visible > 0) & (inside[:, 2:] > inside[:, :2]).all(axis=1))
    return rows, inside[rows], np.minimum(visible[rows], 1.0)
