"""Outlines, inner patterns and shading of procedural objects: formulae in the object's own axes.

`u`, `v` are those axes: an outline fills about -1..1 in both, so one formula serves every size and aspect. All are
float32 arrays of one shape.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dealkit.data.scenes.backgrounds import value_noise

Array = NDArray[np.float32]


def _bar(u: Array, v: Array, half_u: float, half_v: float) -> Array:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _disc(u: Array, v: Array, x: float, y: float, r: float) -> Array:
    return np.hypot(u - x, v - y) - r


def _superellipse(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    n = 2.6 + 4 * p[0]
    return (np.abs(u) ** n + np.abs(v) ** n + 1e-9) ** (1 / n) - 1


def _polygon(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    k = 3 + int(p[0] * 4.99)
    step = 2 * np.pi / k
    return np.hypot(u, v) * np.cos((np.arctan2(v, u) + 2 * np.pi) % step - step / 2) - np.cos(step / 2)


def _star(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    k = 3 + int(p[0] * 5.99)
    return (np.hypot(u, v) - (1 - (0.3 + 0.3 * p[1]) * (1 - np.cos(k * np.arctan2(v, u))))) * 0.8


def _cross(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    w = 0.2 + 0.25 * p[0]
    return np.minimum(_bar(u, v, 1, w), _bar(u, v, w, 1))


def _ring(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    w = 0.12 + 0.2 * p[0]
    r = np.hypot(u, v) if p[1] < 0.75 else np.maximum(np.abs(u), np.abs(v))
    return np.abs(r - 1 + w) - w


def _crescent(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    return np.maximum(np.hypot(u, v) - 1, -_disc(u, v, 0.45 + 0.3 * p[0], 0, 0.8))


def _two_lobes(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    r = 0.5 + 0.12 * p[0]
    return np.minimum(_disc(u, v * r, r - 1, 0, r), _disc(u, v * r, 1 - r * (0.75 + 0.25 * p[1]), 0, r * (0.75 + 0.25 * p[1])))


def _capsule(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    return np.hypot(np.maximum(np.abs(u) - 0.75, 0) * 4, v) - 1


def _blob(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    t = np.arctan2(v, u)
    r = sum((0.25 * p[i] / (0.6 + 0.4 * i)) * np.cos((i + 1) * t + 6.28 * p[i + 3]) for i in range(1, 5))
    return np.hypot(u, v) - 0.85 * (1 + r)


def _bolt(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    head = 0.12 + 0.15 * p[0]
    return np.minimum(_bar(u + 1 - head, v, head, 1), _bar(u, v, 1, 0.25 + 0.25 * p[1]))


def _figure(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    body = np.hypot((u + 0.2) / 0.5, v / (0.6 + 0.2 * p[0])) - 1
    spread = 0.2 + 0.4 * p[1]
    legs = np.maximum(np.abs(np.abs(v) - spread * np.clip(u, 0, 1) - 0.1) - 0.22, np.abs(u - 0.45) - 0.55)
    arms = _bar(u + 0.45 - (p[2] - 0.5) * v, v, 0.1, 1)
    return np.minimum(np.minimum(_disc(u, v * 0.5, -0.82, 0, 0.2), body * 0.5), np.minimum(legs, arms))


def _hook(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    w = 0.15 + 0.25 * p[0]
    return np.minimum(_bar(u + 1 - w, v, w, 1), _bar(u, v - (p[1] < 0.6) * (1 - w), 1, w))


def _arc(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    w = 0.15 + 0.15 * p[0]
    return np.maximum(np.abs(np.hypot(u, v) - 1 + w) - w, -(u + 0.1 + 0.6 * p[1]))


def _notched(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    return np.maximum(_bar(u, v, 1, 1), -_disc(u, v, 1.1, p[1] - 0.5, 0.5 + 0.4 * p[0]))


def _wings(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    body = np.hypot(u, v / 0.22) - 1
    wing = np.maximum(np.abs(u + 0.1 - (0.3 + 0.6 * p[0]) * np.abs(v) + 0.2) - (0.32 - 0.2 * np.abs(v)), np.abs(v) - 1)
    tail = _bar(u - 0.82, v, 0.12, 0.2 + 0.25 * p[1])
    return np.minimum(np.minimum(body * 0.25, wing), tail)


def _bunch(u: Array, v: Array, p: tuple[float, ...]) -> Array:
    k, r = 4 + int(p[0] * 4), 0.36
    out = _disc(u, v, 0, 0, r)
    for i in range(k):
        t = 2 * np.pi * (i + 0.3 * p[1 + i % 6]) / k
        out = np.minimum(out, _disc(u, v, 0.64 * np.cos(t), 0.64 * np.sin(t), r))
    return out


FAMILIES: dict[str, Callable[[Array, Array, tuple[float, ...]], Array]] = {
    "ellipse": lambda u, v, p: np.hypot(u, v) - 1,
    "rectangle": lambda u, v, p: _bar(u, v, 1, 1),
    "rounded": _superellipse,
    "polygon": _polygon,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "vehicle": lambda u, v, p: _superellipse(u, v, (0.8,)),
    "two-lobed": _two_lobes,
    "rod": _capsule,
    "blob": _blob,
    "bolt": _bolt,
    "figure": _figure,
    "hook": _hook,
    "arc": _arc,
    "notched": _notched,
    "wings": _wings,
    "bunch": _bunch,
    "point": lambda u, v, p: np.hypot(u, v) - 1,
    "crater": lambda u, v, p: np.hypot(u, v) - 1,
}
"""Outline of each family: (u, v, params) -> a level below 0 inside, about a distance in half widths near the edge."""

PATTERNS = ("flat", "gradient", "stripes", "dots", "nucleus", "half", "core", "speckle", "windows")
SHADES = ("none", "ball", "crater", "spot", "side")


def inner_pattern(name: str, u: Array, v: Array, p: float, q: float, jitter: float, rng: np.random.Generator) -> Array | float:
    """Share of the second colour at each place, 0..1: an array like `u`, or 0.0 for a flat body.

    Args:
        name: one of `PATTERNS`.
        u, v: the object's own axes.
        p, q: two numbers in 0..1 that settle period, phase and width.
        jitter: how far a nucleus may lie from its usual place, 0..1.
        rng: random source of what differs from one object to the next.

    >>> inner_pattern("flat", np.zeros((2, 2)), np.zeros((2, 2)), 0.5, 0.5, 0.0, np.random.default_rng(0))
    0.0
    """
    if name == "flat":
        return 0.0
    if name == "windows":
        glass = np.minimum(_bar(u - 0.35, v, 0.13, 0.75), _bar(u + 0.6, v, 0.1, 0.7))
        return np.clip(0.5 - glass * 8, 0, 1)
    along = u * np.cos(6.28 * q) + v * np.sin(6.28 * q) if p < 0.6 else (u if q < 0.5 else v)
    if name == "gradient":
        return np.clip(0.5 + 0.5 * along, 0, 1)
    if name == "half":
        return np.clip(0.5 + 6 * along, 0, 1)
    if name == "stripes":
        return np.clip(0.5 + 2 * np.sin(along * (5 + 7 * p)), 0, 1)
    if name == "dots":
        return np.clip(3 * np.sin(u * (6 + 4 * p)) * np.sin(v * (6 + 4 * p)), 0, 1)
    if name == "speckle":
        return np.clip(0.4 + 0.7 * value_noise(rng, u.shape, 1 + u.shape[0] * 0.12 * p), 0, 1)
    wander = jitter * rng.uniform(-0.2, 0.2, 2) if name == "nucleus" else np.zeros(2)
    return np.clip(0.5 - (_disc(u, v, wander[0], wander[1], 0.3 + 0.35 * p)) * (3 + 8 * q), 0, 1)


def shading(name: str, x: Array, y: Array, light: float) -> Array:
    """Lightness added to the body, about -0.5..0.5.

    Args:
        name: one of `SHADES` but none.
        x, y: image axes from the centre of the object, in half sizes.
        light: where the light comes from, radians.

    >>> shading("crater", np.array([-0.5, 0.5]), np.zeros(2), 0.0).tolist()
    [0.4, -0.4]
    """
    side = x * np.cos(light) + y * np.sin(light)
    r2 = x * x + y * y
    if name == "ball":
        return 0.3 * side + 0.25 * (0.5 - np.minimum(r2, 1))
    if name == "crater":
        return np.clip(-0.8 * side, -0.5, 0.5)
    if name == "side":
        return np.where(side > 0, 0.2, -0.2).astype(np.float32)
    spot = np.exp(-((x - 0.4 * np.cos(light)) ** 2 + (y - 0.4 * np.sin(light)) ** 2) * 14)
    return 0.6 * spot - 0.15 * np.minimum(r2, 1)
