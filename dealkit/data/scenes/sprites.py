"""Categories of procedural objects and their sprites: small anti-aliased patches with exactly known boxes.

`h`, `w` height and width of a patch, `C` colour channels (1 in grey scenes, 3 otherwise); colours are 0..1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dealkit.data.scenes.shapes import FAMILIES, PATTERNS, SHADES, inner_pattern, shading

Array = NDArray[np.float32]

SUPPORT_LEVEL = 0.5
"""Share of the peak opacity at which a hard object ends: the edge of an ideal sensor."""
SOFT_LEVEL = 0.25
"""The same for point targets and objects lost in their own blur. Choice: half the peak looks too tight there to annotators."""


@dataclass(frozen=True, kw_only=True)
class Category:
    """Everything that objects of one kind share, and how far each may depart from it."""

    family: str
    """Outline: a key of `FAMILIES`."""
    size: float
    """Square root of the area of the upright box, pixels."""
    aspect: float
    """Length over width of the upright box, at least 1."""
    colour: tuple[float, ...]
    """Main colour, C values."""
    second: tuple[float, ...]
    """Colour of the inner pattern and the outline, C values."""
    pattern: str
    """Inner pattern: a key of `PATTERNS`."""
    shade: str
    """Light on the body: one of `SHADES`."""
    outline: float
    """Width of a line in the second colour along the edge as a share of the half width; 0 is none."""
    turn: str
    """Rotation law: fixed, axes (quarter turns), free, or layout (follows a row or road where there is one)."""
    angle: float
    """Direction of the fixed and axes laws, radians."""
    opacity: float
    """Peak opacity, 0..1."""
    size_jitter: float
    """Standard deviation of log size within the category."""
    colour_jitter: float
    """Standard deviation of each colour within the category."""
    shape_jitter: float
    """How far outlines differ within the category, 0..1."""
    params: tuple[float, ...]
    """Eight numbers in 0..1 that settle a family's free choices (corners, depth, width, ...)."""
    individual: float = 0.0
    """How strongly the inside of each object is its own, 0..1: coins and shells share outline and size, not their drawing."""


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """One rendered object on a patch whose top-left corner is (0, 0)."""

    alpha: Array
    """(h, w, 1) opacity."""
    colour: Array
    """(h, w, C) colour times opacity."""
    support: NDArray[np.bool_]
    """(h, w) pixels that belong to the object."""
    box: tuple[float, float, float, float]
    """xyxy, pixels of the patch."""
    angle: float
    """Radians."""


_WEIGHTS = {"ellipse": 3, "rectangle": 2, "rounded": 2, "vehicle": 3, "blob": 3, "point": 2.5, "crater": 1.5, "rod": 1.5}
_WEIGHTS["figure"] = 2
_ASPECT = {"vehicle": (1.6, 2.6), "rod": (3, 9), "bolt": (2.2, 5), "figure": (1.6, 3), "two-lobed": (1.3, 2), "crater": (1, 1.15)}
_ELONGATED = {"ellipse": (1, 2.5), "rectangle": (1, 4), "rounded": (1, 3), "blob": (1, 2), "hook": (1, 2), "point": (1, 1.6)}


def _reduce(n: int, ss: int, blur: float) -> Array:
    """(n, n * ss) matrix that blurs by `blur` pixels and averages `ss` samples into each pixel."""
    distance = np.arange(n)[:, None] + 0.5 - (np.arange(n * ss)[None] + 0.5) / ss
    slope = 0.851 / max(blur, 0.02)  # a pixel's box convolved with a Gaussian, whose integral is near tanh(0.851 x / sigma)
    weight = np.tanh((distance + 0.5) * slope) - np.tanh((distance - 0.5) * slope)
    return (weight / (2 * ss)).astype(np.float32)


def alpha_box(alpha: Array, level: float) -> tuple[float, float, float, float]:
    """Smallest upright box, x1, y1, x2, y2 in pixels, around the places where `alpha` passes `level` (0..1) times its peak.

    Rows and columns are reduced to their maximum, and the crossing is found between pixel centres by linear interpolation:
    right within about 0.1 px for straight edges, 0.5 px for sharp tips. `alpha` is (h, w), with a border of zeros.

    >>> patch = np.zeros((5, 6), np.float32)
    >>> patch[1:3, 2:5] = 1.0
    >>> alpha_box(patch, 0.5)
    (2.0, 1.0, 5.0, 3.0)
    """
    ends = []
    for profile in (alpha.max(0), alpha.max(1)):
        cut = level * profile.max()
        inside = np.flatnonzero(profile >= cut)
        first, last = int(inside[0]), int(inside[-1])
        before = float(profile[first - 1]) if first else 0.0
        after = float(profile[last + 1]) if last + 1 < len(profile) else 0.0
        ends.append(float(first - 0.5 + (cut - before) / max(float(profile[first]) - before, 1e-6)))
        ends.append(float(last + 0.5 + (float(profile[last]) - cut) / max(float(profile[last]) - after, 1e-6)))
    return ends[0], ends[2], ends[1], ends[3]


def render_sprite(c: Category, rng: np.random.Generator, *, angle: float, blur: float = 0.0, light: float = 0.0) -> Sprite:
    """Draw one object of a category, with its own size, outline, colour and sub-pixel position.

    Args:
        angle: rotation, radians.
        blur: standard deviation of the optics, pixels; the box is that of the blurred object.
        light: where the light comes from in the image, radians; only shaded categories show it.

    >>> disc = draw_category(np.random.default_rng(0), size=10.0, background=np.array([0.2]), contrast=0.5)
    >>> sprite = render_sprite(disc, np.random.default_rng(1), angle=0.0)
    >>> sprite.alpha.shape[:2] == sprite.support.shape
    True
    """
    size = c.size * float(np.exp(c.size_jitter * np.clip(rng.standard_normal(), -2, 2)))
    aspect = c.aspect * float(np.exp(0.15 * c.shape_jitter * rng.standard_normal()))
    a, b = 0.5 * size * aspect**0.5, 0.5 * size / aspect**0.5
    soft = c.family == "point"
    params = tuple(np.clip(np.add(c.params, c.shape_jitter * 0.25 * rng.standard_normal(len(c.params))), 0, 1).tolist())
    ss = 4 if size < 8 else 3 if size < 16 else 2 if size < 40 else 1
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    reach = 1.8 if soft else 1.3 if c.family == "blob" else 1.08
    half_w, half_h = reach * (a * abs(cos) + b * abs(sin)), reach * (a * abs(sin) + b * abs(cos))
    w, h = (2 * int(np.ceil(half + 3 * blur + 1)) for half in (half_w, half_h))
    x, y = (((np.arange(n * ss) + 0.5) / ss - n / 2 - rng.uniform(-0.5, 0.5)).astype(np.float32) for n in (w, h))
    x, y = x[None], y[:, None]
    u, v = (x * cos + y * sin) / np.float32(a), (y * cos - x * sin) / np.float32(b)
    level = FAMILIES[c.family](u, v, params).astype(np.float32)
    # exp(-1.386 r^2) is SOFT_LEVEL on the unit circle, so the nominal size of a point target is that of its box.
    alpha = np.exp(-1.386 * (u * u + v * v)) if soft else np.clip(0.5 - level * np.float32(b * ss), 0, 1)
    pattern, period, phase = c.pattern, c.params[6], c.params[7]
    main, second = np.asarray(c.colour, np.float32), np.asarray(c.second, np.float32)
    if c.individual:
        pattern = str(rng.choice(PATTERNS[:-1], p=[0.1, 0.1, 0.05, 0.1, 0.1, 0.1, 0.1, 0.35]))
        period, phase = rng.uniform(0, 1, 2)
        own = 0.25 * c.individual * (rng.standard_normal() + 0.3 * rng.standard_normal(3)[: len(main)])
        second = np.clip(main + own, 0, 1).astype(np.float32)
    share = inner_pattern(pattern, u, v, period, phase, c.shape_jitter, rng)
    if c.outline > 0 and not soft:
        share = np.maximum(share, np.clip((level + c.outline) * np.float32(b * ss) + 0.5, 0, 1))
    down, across = _reduce(h, ss, blur), _reduce(w, ss, blur).T
    low = np.clip(down @ alpha @ across, 0, 1) * np.float32(c.opacity)
    wobble = np.float32(c.colour_jitter) * (0.8 * rng.standard_normal() + 0.4 * rng.standard_normal(3)[: len(main)])
    colour = low[..., None] * np.clip(main + wobble, 0, 1).astype(np.float32)
    if not isinstance(share, float):
        mixed = (down @ (alpha * share) @ across) * np.float32(c.opacity)
        colour = colour + mixed[..., None] * (second - main)
    if c.shade != "none":
        half = np.float32(2 / size)
        lit = (down @ (alpha * shading(c.shade, x * half, y * half, light)) @ across) * np.float32(c.opacity)
        colour = colour + lit[..., None]
    colour = np.clip(colour, 0, low[..., None])
    cut = SOFT_LEVEL if soft or min(a, b) < 2 * blur else SUPPORT_LEVEL
    return Sprite(alpha=low[..., None], colour=colour, support=low >= cut * low.max(), box=alpha_box(low, cut), angle=angle)


def contrasting(rng: np.random.Generator, base: Array, contrast: float, *, chroma: float) -> tuple[float, ...]:
    """A colour whose mean channel distance from `base` is `contrast`, as far as 0..1 allows.

    Args:
        contrast: mean absolute distance over the channels, 0..1.
        chroma: 0 moves all channels alike (lighter or darker), 1 each on its own.

    >>> contrasting(np.random.default_rng(0), np.array([0.9], np.float32), 0.25, chroma=0.0)  # 1.15 would not fit
    (0.65,)
    """
    up = float(np.mean(1 - base)), float(np.mean(base))
    sign = 1.0 if rng.uniform() < 0.5 else -1.0
    if contrast > up[0 if sign > 0 else 1]:
        sign = 1.0 if up[0] > up[1] else -1.0
    move = np.full(len(base), sign)
    free = rng.uniform(-1.5, 1.5, 3)  # drawn in grey scenes too, so that both draw alike
    if len(base) > 1:
        move = (1 - chroma) * move + chroma * free
    for _ in range(3):
        colour = np.clip(base + move, 0, 1)
        move = (colour - base) * contrast / max(float(np.abs(colour - base).mean()), 1e-3)
    return tuple(float(np.round(x, 4)) for x in np.clip(base + move, 0, 1))


def draw_category(
    rng: np.random.Generator,
    *,
    size: float,
    background: Array,
    contrast: float,
    chroma: float = 0.5,
    families: Sequence[str] | None = None,
) -> Category:
    """Draw a category at random.

    Args:
        size: square root of the area of the upright box, pixels.
        background: (C,) mean colour of the scene.
        contrast: mean distance of the main colour from the background, 0..1.
        chroma: how colourful the scene's objects are, 0..1.
        families: keys of `FAMILIES` to draw from; None: all.

    >>> draw_category(np.random.default_rng(0), size=9.0, background=np.array([0.2]), contrast=0.3).size
    9.0
    """
    names = list(families or FAMILIES)
    weights = np.array([_WEIGHTS.get(name, 1.0) for name in names])
    family = names[rng.choice(len(names), p=weights / weights.sum())]
    low, high = _ASPECT.get(family) or _ELONGATED.get(family) or (1.0, 1.4)
    aspect = min(float(rng.uniform(low, high)), max(1.0, (size / 1.6) ** 2))
    pattern = str(rng.choice(PATTERNS[:-1], p=[0.42, 0.1, 0.08, 0.06, 0.12, 0.07, 0.08, 0.07]))
    shade = str(rng.choice(SHADES, p=[0.6, 0.14, 0.02, 0.14, 0.1]))
    outline = float(rng.uniform(0.1, 0.4)) if rng.uniform() < 0.25 and size > 6 else 0.0
    if family == "vehicle":
        pattern, shade = ("windows", "none") if rng.uniform() < 0.8 else (pattern, shade)
    pattern = "flat" if family in ("crater", "point") else pattern
    shade = {"crater": "crater", "bunch": "spot", "point": "none"}.get(family, shade)
    outline = 0.0 if family == "point" else outline
    directed = family in ("vehicle", "rod", "rectangle", "bolt", "rounded")
    turn = str(rng.choice(["fixed", "axes", "free", "layout"], p=[0.2, 0.1, 0.4, 0.3] if directed else [0.3, 0.1, 0.5, 0.1]))
    angle = float(rng.choice([0.0, np.pi / 2, rng.uniform(0, 2 * np.pi)]))
    if family == "figure" and rng.uniform() < 0.7:
        turn, angle = "fixed", np.pi / 2
    varied = size >= 8 and rng.uniform() < (0.5 if family == "vehicle" else 0.06)
    colour = contrasting(rng, background, contrast, chroma=chroma * float(rng.choice([0.1, 0.5, 1.0 if contrast < 0.3 else 0.6])))
    apart = float(rng.uniform(0.15, 0.5))
    second = contrasting(rng, np.asarray(colour, np.float32), apart, chroma=chroma * float(rng.uniform(0, 1)))
    return Category(
        family=family,
        size=size,
        aspect=aspect,
        colour=colour,
        second=second,
        pattern=pattern,
        shade=shade,
        outline=outline,
        turn=turn,
        angle=angle,
        opacity=1.0 if rng.uniform() < 0.8 else float(rng.uniform(0.55, 1)),
        size_jitter=float(rng.choice([0.03, 0.1, 0.2, 0.35], p=[0.3, 0.35, 0.25, 0.1])),
        colour_jitter=0.3 if varied else float(rng.choice([0.01, 0.03, 0.08])),
        shape_jitter=float(rng.choice([0.05, 0.3, 0.8])),
        params=tuple(rng.uniform(0, 1, 8).tolist()),
    )


def vary_category(c: Category, other: Category, rng: np.random.Generator) -> Category:
    """A look-alike: `c` with one attribute, which a viewer can tell at this size, taken from `other`.

    >>> one, two = (draw_category(np.random.default_rng(i), size=30.0, background=np.ones(1), contrast=0.3) for i in (0, 1))
    >>> twin = vary_category(one, two, np.random.default_rng(0))
    >>> twin != one
    True
    """
    ways = ["colour", "size"] + ["shape"] * (c.size >= 10) + ["pattern"] * (c.size >= 14)
    way = str(rng.choice(ways))
    if way == "shape" and other.family != c.family and "point" not in (c.family, other.family):
        return replace(c, family=other.family, aspect=other.aspect, params=other.params)
    if way == "pattern" and other.pattern != c.pattern and c.family != "point":
        return replace(c, pattern=other.pattern, outline=other.outline)
    if way == "size":
        return replace(c, size=c.size * (2.0 if c.size < 16 else 0.5), size_jitter=min(c.size_jitter, 0.1))
    return replace(c, colour=other.colour, second=other.second, colour_jitter=min(c.colour_jitter, 0.03))


def render_variants(
    c: Category, rng: np.random.Generator, count: int, *, blur: float, light: float, box_size: float | None = None
) -> list[Sprite]:
    """A few objects of a category, to be pasted many times.

    Args:
        count: objects wanted in all; at most ten are drawn.
        box_size: square root of the box area that every object shall have, whatever its outline, rotation and blur, pixels; right
            within a tenth, or half a pixel. None leaves `c.size` and its variation.
    """
    if c.turn == "layout":
        number = 10
        angles = np.arange(number) * (2 * np.pi / number)
    else:
        number = min(count, 6 if c.size > 30 else 9)
        angles = {
            "fixed": np.full(number, c.angle) + rng.normal(0, 0.05 * c.shape_jitter, number),
            "axes": c.angle + rng.integers(0, 2, number) * (np.pi / 2),
            "free": rng.uniform(0, 2 * np.pi, number),
        }[c.turn]
    if box_size is None:
        return [render_sprite(c, rng, angle=float(a), blur=blur, light=light) for a in angles]
    sprites = []
    for a in angles:
        seed, size = int(rng.integers(2**32)), box_size
        for _ in range(4):
            same = replace(c, size=size, size_jitter=0.0)
            sprite = render_sprite(same, np.random.default_rng(seed), angle=float(a), blur=blur, light=light)
            x1, y1, x2, y2 = sprite.box
            size = max(1.0, size * box_size / ((x2 - x1) * (y2 - y1)) ** 0.5)
        sprites.append(sprite)
    return sprites


_HUES = {
    "black": (0.05, 0.05, 0.05), "grey": (0.5, 0.5, 0.5), "white": (0.95, 0.95, 0.95), "red": (0.75, 0.2, 0.2),
    "orange": (0.9, 0.55, 0.2), "yellow": (0.9, 0.85, 0.3), "green": (0.25, 0.6, 0.25), "cyan": (0.3, 0.75, 0.8),
    "blue": (0.2, 0.3, 0.75), "purple": (0.5, 0.25, 0.65), "pink": (0.9, 0.6, 0.75), "brown": (0.45, 0.3, 0.2),
}  # fmt: skip


def category_names(categories: list[Category]) -> list[str]:
    """A name such as 'red ring' for each category, unique within the list by a number behind it."""
    names: list[str] = []
    for c in categories:
        colour = np.resize(np.array(c.colour), 3)
        hue = min(_HUES, key=lambda k, x=colour: float(np.abs(np.subtract(_HUES[k], x)).sum()))
        name = f"{hue} {'' if c.pattern == 'flat' else c.pattern + ' '}{c.family}"
        twins = sum(n == name or n.startswith(name + " ") for n in names)
        names.append(f"{name} {twins + 1}" if twins else name)
    return names
