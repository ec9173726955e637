"""Where objects go, what remains visible of them, and what a camera adds.

`N` objects so far, `M` candidate places, `H`, `W` image height and width, `C` colour channels; colours are 0..1.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dealkit.data.scenes.sprites import Sprite

LAYOUTS = ("uniform", "clusters", "grid", "rows", "curve", "dense")
MIN_VISIBLE_IN_FRAME = 0.4
"""Least share of an object's support inside the image; objects cut more are not drawn at all."""
MIN_UNHIDDEN = 0.3
"""Least share of the support left uncovered by later objects; objects hidden more lose their label."""
FAINTEST = 0.035
"""Least mean distance of an object from what it covers, 0..1; an object that would be fainter is placed elsewhere."""


@dataclass
class Canvas:
    """The picture while objects are being placed on it."""

    image: NDArray[np.float32]
    """(H, W, C), changed by `paste`."""
    owner: NDArray[np.int32]
    """(H, W) the object seen at each pixel, counted from 1; 0 is the background."""
    faintest: float
    """Least mean distance of an object from what it covers."""
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    """xyxy pixels of each object, not yet clipped."""
    labels: list[int] = field(default_factory=list)
    """Category of each object."""
    areas: list[int] = field(default_factory=list)
    """Support of each object inside the image, pixels."""
    contrasts: list[float] = field(default_factory=list)
    """Mean distance of each object from what it covered."""


def candidate_places(
    rng: np.random.Generator, layout: str, count: int, spacing: float, size_hw: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places to try in order, and the direction of the layout at each.

    Args:
        layout: one of `LAYOUTS`.
        count: objects wanted; about three times as many places are given, unless a lattice holds fewer.
        spacing: size of the objects, pixels.

    Returns:
        (M, 2) xy pixels, a few of them just outside the image, and (M,) radians.

    >>> places, directions = candidate_places(np.random.default_rng(0), "clusters", 4, 10.0, (64, 64))
    >>> places.shape, directions.shape
    ((42, 2), (42,))
    """
    extent = np.array(size_hw[::-1], np.float64)
    tries = 3 * count + 30
    if layout in ("grid", "rows", "dense"):
        return _lattice(rng, layout, tries, spacing, extent)
    direction = np.full(tries, float(rng.uniform(0, 2 * np.pi)))
    if layout == "clusters":
        hearts = rng.uniform(0, 1, (int(rng.integers(1, 7)), 2)) * extent
        spread = spacing * rng.uniform(1, 2.5, len(hearts)) * max(1.0, (count / len(hearts)) ** 0.5) * 0.6
        pick = rng.integers(0, len(hearts), tries)
        return hearts[pick] + rng.normal(0, 1, (tries, 2)) * spread[pick, None], direction
    if layout == "curve":
        a, b, c = rng.uniform(-0.1, 1.1, (3, 2)) * extent
        t = rng.uniform(0, 1, tries)[:, None]
        tangent = 2 * (1 - t) * (b - a) + 2 * t * (c - b)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.maximum(np.hypot(*tangent.T), 1e-6)[:, None]
        lanes = int(rng.integers(1, 5))
        lane = (rng.integers(0, lanes, tries) - (lanes - 1) / 2) * spacing * 1.4
        middle = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
        xy = middle + normal * lane[:, None] + rng.normal(0, 0.06 * spacing, (tries, 2))
        return xy, np.arctan2(tangent[:, 1], tangent[:, 0]) + np.pi * (lane < 0)
    return rng.uniform(-0.02, 1.02, (tries, 2)) * extent, direction


def _lattice(
    rng: np.random.Generator, layout: str, tries: int, spacing: float, extent: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`candidate_places` on a turned lattice: grid (car park), rows (wider apart) or dense (hexagonal, touching)."""
    turn = float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]))
    tight, loose, jitter = {"grid": (1.15, 2.5, 0.03), "rows": (1.05, 1.5, 0.08), "dense": (0.85, 1.05, 0.1)}[layout]
    gap = spacing * rng.uniform(tight, loose)
    row_gap = gap * {"grid": rng.uniform(1, 2), "rows": rng.uniform(2, 6), "dense": 0.87}[layout]
    reach, row_reach = (int(np.hypot(*extent) / max(step, 1)) + 1 for step in (gap, row_gap))
    i, j = (a.ravel() for a in np.meshgrid(np.arange(-reach, reach + 1), np.arange(-row_reach, row_reach + 1)))
    i = i + (0.5 * (j % 2) if layout == "dense" else 0.0)
    cos, sin = np.cos(turn), np.sin(turn)
    xy = np.stack([i * gap, j * row_gap], 1) @ np.array([[cos, sin], [-sin, cos]]) + rng.uniform(0.2, 0.8, 2) * extent
    xy = xy[((xy > -0.3 * spacing) & (xy < extent + 0.3 * spacing)).all(1)]
    xy = xy + rng.normal(0, jitter * spacing, xy.shape)
    if layout == "dense" or rng.uniform() < 0.5:  # filled from one place outwards
        heart = rng.uniform(0.15, 0.85, 2) * extent
        order = np.argsort(np.hypot(*(xy - heart).T) * rng.uniform(0.8, 1.25, len(xy)))
    else:
        order = rng.permutation(len(xy))
    xy = xy[order][:tries]
    return xy, np.full(len(xy), turn + (np.pi / 2 if rng.uniform() < 0.6 else 0.0))


def lattice_places(count: int, gap: float, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """The `count` places (M, 2) xy nearest the middle of the image on a square lattice `gap` pixels wide.

    >>> lattice_places(3, 10.0, (40, 60)).tolist()
    [[30.0, 20.0], [30.0, 10.0], [20.0, 20.0]]
    """
    reach = int(np.ceil(count**0.5)) + 1
    x, y = (a.ravel() for a in np.meshgrid(*[np.arange(-reach, reach + 1)] * 2))
    order = np.lexsort((x, y, np.abs(x) + np.abs(y), np.maximum(np.abs(x), np.abs(y))))[:count]
    return np.stack([x[order], y[order]], 1) * gap + np.array(size_hw[::-1]) / 2


def border_places(count: int, cut: float, side: float, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Places (M, 2) xy, in turn at the border, where `cut` of the side of an object hangs over it, and inside.

    Args:
        cut: negative: so many sides away from the border. side: of an object, pixels.

    Returns:
        `count` places, those at the border evenly along all four sides; the others on a lattice at least 2 sides away from it.

    >>> border_places(4, 0.5, 10.0, (100, 100)).tolist()  # centres on the border, and well inside, in turn
    [[0.0, 50.0], [40.0, 40.0], [50.0, 0.0], [60.0, 40.0]]
    """
    height, width = size_hw
    at, depth = (count + 1) // 2, (0.5 - cut) * side
    part, share = np.arange(at) % 4, 0.1 + 0.8 * (np.arange(at) // 4 + 0.5) / max(-(-at // 4), 1)  # not in the corners
    x = np.choose(part, [np.full(at, depth), share * width, np.full(at, width - depth), (1 - share) * width])
    y = np.choose(part, [share * height, np.full(at, depth), (1 - share) * height, np.full(at, height - depth)])
    inside = count - at
    n = int(np.ceil(max(inside, 1) ** 0.5))
    margin = 2.0 * side
    steps = [margin + (extent - 2 * margin) * (np.arange(n) + 1) / (n + 1) for extent in (width, height)]
    inner = np.stack([a.ravel() for a in np.meshgrid(*steps)], 1)[:inside]
    places = np.empty((count, 2))
    places[0::2], places[1::2] = np.stack([x, y], 1), inner
    return places


def paste(
    canvas: Canvas, s: Sprite, xy: NDArray[np.float64], label: int, max_overlap: float, shadow: tuple[int, int, float]
) -> bool:
    """Draw a sprite, unless too much of it leaves the image, covers others or is lost against the ground.

    Args:
        xy: (2,) wanted centre, pixels; the patch is put on the nearest whole pixel.
        max_overlap: largest share of the object's support that may lie on other objects, 0..1.
        shadow: x and y offset in pixels, and strength 0..1, of the shadow on the ground.

    Returns:
        Whether it was drawn.
    """
    height, width = canvas.owner.shape
    h, w = s.support.shape
    left, top = round(xy[0] - w / 2), round(xy[1] - h / 2)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, width), min(top + h, height)
    if x2 <= x1 or y2 <= y1:
        return False
    cut = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
    here = np.s_[y1:y2, x1:x2]
    support = s.support[cut]
    inside = int(np.count_nonzero(support))
    if inside < MIN_VISIBLE_IN_FRAME * np.count_nonzero(s.support):
        return False
    owner = canvas.owner[here]
    if np.count_nonzero(owner[support]) > max_overlap * inside:
        return False
    alpha, colour = s.alpha[cut], s.colour[cut]
    change = np.abs(colour - alpha * canvas.image[here]).sum(2)
    contrast = float((change * support).sum()) / (inside * colour.shape[2])
    if contrast < canvas.faintest:
        return False
    if shadow[2] > 0:
        dx, dy, strength = shadow
        sx1, sy1, sx2, sy2 = max(x1 + dx, 0), max(y1 + dy, 0), min(x2 + dx, width), min(y2 + dy, height)
        if sx2 > sx1 and sy2 > sy1:
            under = s.alpha[sy1 - dy - top : sy2 - dy - top, sx1 - dx - left : sx2 - dx - left]
            free = canvas.owner[sy1:sy2, sx1:sx2, None] == 0
            canvas.image[sy1:sy2, sx1:sx2] *= 1 - strength * under * free
    canvas.contrasts.append(contrast)
    canvas.image[here] = canvas.image[here] * (1 - alpha) + colour
    canvas.boxes.append((s.box[0] + left, s.box[1] + top, s.box[2] + left, s.box[3] + top))
    canvas.labels.append(label)
    canvas.areas.append(inside)
    owner[support] = len(canvas.boxes)
    return True


def visible_boxes(canvas: Canvas) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Boxes of what can be seen of each object, once all are placed.

    Returns:
        (N, 4) float32 xyxy pixels inside the image; (N,) bool, whether the object keeps its label; (N,) uncovered share of
        its support. Sides covered by more than a pixel move to the last visible pixel. Choice: annotators box what they see.
    """
    height, width = canvas.owner.shape
    boxes = np.array(canvas.boxes, np.float32).reshape(-1, 4).clip(0, np.float32([width, height, width, height]))
    seen = np.bincount(canvas.owner.ravel(), minlength=len(boxes) + 1)[1:]
    share = seen / np.maximum(canvas.areas, 1)
    keep = (share >= MIN_UNHIDDEN) & (seen > 0) & (boxes[:, 2] - boxes[:, 0] >= 0.5) & (boxes[:, 3] - boxes[:, 1] >= 0.5)
    for i in np.flatnonzero(keep & (share < 0.95)):
        x1, y1 = np.floor(boxes[i, :2]).astype(int)
        x2, y2 = np.ceil(boxes[i, 2:]).astype(int)
        mine = canvas.owner[y1:y2, x1:x2] == i + 1
        columns, rows = np.flatnonzero(mine.any(0)), np.flatnonzero(mine.any(1))
        inner = np.array([x1 + columns[0], y1 + rows[0], x1 + columns[-1] + 1, y1 + rows[-1] + 1], np.float32)
        covered = np.abs(inner - boxes[i]) > 1
        boxes[i] = np.where(covered, inner, boxes[i])
    return boxes, keep, share


def add_sensor(
    rng: np.random.Generator, image: NDArray[np.float32], *, smallest: float, weakest: float, invert: float
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Uneven light, vignetting, noise and inversion, as a camera adds them.

    Args:
        smallest: size of the smallest category, pixels; with `weakest` it bounds the noise.
        weakest: contrast of the fainter objects, 0..1.
        invert: probability that dark and bright change places.

    Returns:
        The new image, not clipped, and `noise` (standard deviation, share of full scale) and `inverted` (0 or 1).
    """
    height, width, _ = image.shape
    factors = {"noise": 0.0, "inverted": 0.0}
    gradient, vignette = rng.uniform(-0.3, 0.3, 2) * (rng.uniform() < 0.4), rng.uniform(0.1, 0.6) * (rng.uniform() < 0.2)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    if gradient.any() or vignette:
        light = (1 + gradient[0] * x + gradient[1] * y - vignette * 0.5 * (x * x + y * y)).astype(np.float32)[..., None]
        image = image * light
        image /= max(1.0, float(image[::4, ::4].max()))
    noise = float(np.exp(rng.uniform(np.log(0.003), np.log(0.12))))
    # An eye integrates over an object, so what hides it grows with its side: small faint objects get less noise.
    noise = min(noise, 0.04 * weakest * min(max(smallest, 3.0), 12.0))
    coarse, shot, mono = rng.uniform() < 0.15, rng.uniform() < 0.4, rng.uniform() < 0.4
    if noise > 0.004:
        field = np.empty_like(image) if not mono else np.empty((height, width, 1), np.float32)
        rng.standard_normal(out=field, dtype=np.float32)
        if coarse:
            field = 0.75 * (field + np.roll(field, 1, 1)) if height > 1 else field
        if shot:
            field *= np.sqrt(np.clip(image.mean(2, keepdims=True), 0.02, 1)) * 1.4
        image = image + np.float32(noise) * field
        factors["noise"] = noise
    if rng.uniform() < invert:
        image, factors["inverted"] = 1 - image, 1.0
    return image, factors
