"""Procedural backgrounds: the grounds on which synthetic objects lie, from farmland to circuit boards.

`H`, `W` height and width, `C` colour channels (1 in grey scenes, 3 otherwise); colours are 0..1. Every family takes the random
source, the size, a palette and the clutter, the strength of its irregular texture.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Size = tuple[int, int]


def _resample(rng: np.random.Generator, n: int, cell: float) -> Array:
    """(n, g) matrix that spreads g grid values, one per `cell` pixels at a random phase, over n pixels by cubic B-splines."""
    place = (np.arange(n) / cell + rng.uniform()).astype(np.float32)
    left = place.astype(np.int64)
    t = place - left
    matrix = np.zeros((n, int(left[-1]) + 4), np.float32)
    rows, r = np.arange(n), 1 - t
    for k, weight in enumerate((r**3, 3 * t**3 - 6 * t**2 + 4, 3 * r**3 - 6 * r**2 + 4, t**3)):
        matrix[rows, left + k] = weight / 4.0  # the sum is 1.5 and not 1: that restores most of the spread that smoothing takes
    return matrix


def value_noise(rng: np.random.Generator, size_hw: Size, cell: float, *, stretch: float = 1.0) -> Array:
    """Smooth noise (H, W) of mean 0 and standard deviation near 0.6.

    Args:
        cell: distance between independent values, pixels; `stretch` times that along x.

    >>> value_noise(np.random.default_rng(0), (4, 6), 2.0).shape
    (4, 6)
    """
    if cell <= 1:
        return 0.6 * rng.standard_normal(size_hw, dtype=np.float32)
    rows, columns = _resample(rng, size_hw[0], cell), _resample(rng, size_hw[1], cell * stretch)
    return rows @ rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32) @ columns.T


def fractal_noise(
    rng: np.random.Generator, size_hw: Size, cells: tuple[float, ...], fall: float = 0.6, stretch: float = 1.0
) -> Array:
    """Sum of octaves (H, W), each `fall` times as strong as the coarser one before it; standard deviation near 0.6."""
    total, power = np.zeros(size_hw, np.float32), 0.0
    for i, cell in enumerate(cells):
        total += np.float32(fall**i) * value_noise(rng, size_hw, cell, stretch=stretch)
        power += fall ** (2 * i)
    return total / np.float32(power**0.5)


def _axes(size_hw: Size, angle: float) -> tuple[Array, Array]:
    """Coordinates along and across a direction, pixels from the image centre."""
    y = (np.arange(size_hw[0], dtype=np.float32) - size_hw[0] / 2)[:, None]
    x = (np.arange(size_hw[1], dtype=np.float32) - size_hw[1] / 2)[None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _wrap(x: Array, period: float) -> Array:
    """x modulo `period`; several times faster than numpy's % on floats."""
    turns = x * np.float32(1 / period)
    return (turns - np.floor(turns)) * np.float32(period)


def _blend(image: Array, mask: Array, colour: Array) -> None:
    image += mask[..., None] * (colour - image)


def _ground(
    rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float, cells: tuple[float, ...], fall: float
) -> Array:
    """Two palette colours mixed by noise, with a little independent lightness noise."""
    noise = fractal_noise(rng, size_hw, cells, fall)
    mix = np.clip(0.5 + clutter * noise, 0, 1)[..., None]
    return palette[0] + mix * (palette[1] - palette[0]) + (0.06 * clutter * noise)[..., None]


def _plain(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    image = np.broadcast_to(palette[0], (*size_hw, palette.shape[1])) + np.float32(0)
    return image + (0.08 * clutter * fractal_noise(rng, size_hw, (80, 20, 4)))[..., None]


def _soil(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    return _ground(rng, size_hw, palette, clutter, (90, 30, 10, 4), 0.65)


def _vegetation(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    image = _ground(rng, size_hw, palette, 0.9 * clutter, (40, 12, 5, 2.5), 0.85)
    shadow = np.clip(fractal_noise(rng, size_hw, (16, 6)) - 0.3, 0, 1)
    return image * (1 - 0.6 * clutter * shadow[..., None])


def _gravel(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    cell = float(rng.uniform(3, 9))
    ridge = np.abs(value_noise(rng, size_hw, cell)) + 0.5 * np.abs(value_noise(rng, size_hw, cell / 2))
    return _plain(rng, size_hw, palette, clutter) * (1 - 0.5 * clutter * np.clip(0.9 - ridge, 0, 1))[..., None]


def _relief(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    height = fractal_noise(rng, (size_hw[0] + 2, size_hw[1] + 2), (60, 25, 10, 5), 0.45)
    slope = (height[2:, 2:] - height[:-2, :-2]) * rng.uniform(0.5, 1.5) + (height[2:, :-2] - height[:-2, 2:]) * rng.uniform(-1, 1)
    return palette[0] * (0.9 + clutter * np.clip(1.2 * slope, -0.7, 0.9))[..., None]


def _fields(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    angle = rng.uniform(0, np.pi)
    along, across = _axes(size_hw, angle)
    warp = value_noise(rng, size_hw, 90) * rng.uniform(0, 12)
    wide, high = rng.uniform(40, 160, 2)
    i = np.floor((along + warp) / wide).astype(np.int32) & 15
    j = np.floor((across + warp + 9 * i) / high).astype(np.int32) & 15
    table = palette[rng.integers(0, len(palette), (16, 16))] + rng.normal(0, 0.04, (16, 16, 1)).astype(np.float32)
    image = table[i, j].astype(np.float32)
    rows = np.sin((along if rng.uniform() < 0.5 else across) * np.float32(6.28 / rng.uniform(4, 12)))
    return image + (clutter * (0.03 * rows * (i % 2) + 0.05 * fractal_noise(rng, size_hw, (30, 6))))[..., None]


def _roads(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    image = _vegetation(rng, size_hw, palette[:2], clutter) if rng.uniform() < 0.6 else _soil(rng, size_hw, palette[1:3], clutter)
    grain = (0.04 * clutter * fractal_noise(rng, size_hw, (20, 2)))[..., None]
    paint = np.clip(palette[-1] + 0.4, 0, 1)
    for _ in range(int(rng.integers(1, 4))):
        along, across = _axes(size_hw, rng.uniform(0, np.pi))
        bend = across + rng.uniform(-90, 90) + rng.uniform(-0.001, 0.001) * along**2
        half = rng.uniform(10, 60)
        _blend(image, np.clip(half - np.abs(bend) + 0.5, 0, 1), palette[-1] + grain)
        lane = rng.uniform(8, 26)
        line = np.clip(rng.uniform(0.6, 1.6) - np.abs(_wrap(bend + half, lane) - lane / 2), 0, 1) * (np.abs(bend) < half)
        dash = rng.uniform(10, 30)
        _blend(image, 0.7 * line * (_wrap(along, dash) < dash * rng.uniform(0.4, 1.2)), paint)
    return image


def _water(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    waves = fractal_noise(rng, size_hw, (14, 5, 2.5), 0.8, stretch=float(rng.uniform(1.5, 6)))
    image = palette[0] + (clutter * 0.08 * waves)[..., None] + (np.clip(waves - 1.2, 0, 1) * clutter * 0.3)[..., None]
    if rng.uniform() < 0.4:
        shore = value_noise(rng, size_hw, 120) * 60 + _axes(size_hw, rng.uniform(0, 6.28))[1] - rng.uniform(30, 100)
        _blend(image, np.clip(shore / 3, 0, 1), palette[1])
    return image


def _tissue(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    image = _ground(rng, size_hw, palette, clutter, (50, 18, 7, 3), 0.8)
    for colour, cell in ((palette[2], 35.0), (np.clip(palette[0] + 0.3, 0, 1), 28.0)):
        band = np.abs(fractal_noise(rng, size_hw, (cell, cell / 2), 0.5, stretch=float(rng.uniform(1, 4))))
        _blend(image, 0.8 * clutter * np.clip(1.2 - band * 6, 0, 1), colour)
    return image


def _night(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    glow = np.clip(fractal_noise(rng, size_hw, (110, 45, 15), 0.5), 0, 2)
    return palette[0] * 0.15 + clutter * 0.12 * glow[..., None] * palette[1]


def _clouds(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    cloud = np.clip(fractal_noise(rng, size_hw, (120, 50, 20, 8), 0.55, stretch=float(rng.uniform(1, 3))), -0.4, 1.5)
    image = palette[0] + 0.22 * clutter * cloud[..., None]
    if rng.uniform() < 0.3:
        skyline = size_hw[0] * rng.uniform(0.55, 0.9) + 25 * value_noise(rng, (1, size_hw[1]), rng.uniform(20, 70))
        land = np.clip(np.arange(size_hw[0], dtype=np.float32)[:, None] - skyline, 0, 1)
        _blend(image, land, palette[1] + 0.1 * clutter * fractal_noise(rng, size_hw, (30, 8, 3), 0.8)[..., None])
    return image


def _circuit(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    image = _plain(rng, size_hw, palette, 0.5 * clutter)
    trace = palette[0] + (palette[1] - palette[0]) * rng.uniform(0.3, 1)
    height, width = size_hw
    pitch = int(rng.integers(8, 36))
    thick = max(2, int(pitch * rng.uniform(0.2, 0.55)))
    for _ in range(int(rng.integers(4, 14))):
        x, y = (int(rng.integers(0, s // pitch + 1)) * pitch for s in (width, height))
        for _ in range(int(rng.integers(1, 5))):
            run = int(rng.integers(2, 9)) * pitch * (1 if rng.uniform() < 0.5 else -1)
            to_x, to_y = (x + run, y) if rng.uniform() < 0.5 else (x, y + run)
            (left, right), (top, bottom) = sorted((x, to_x)), sorted((y, to_y))
            image[max(top, 0) : max(bottom + thick, 0), max(left, 0) : max(right + thick, 0)] = trace
            x, y = to_x, to_y
    if rng.uniform() < 0.5:
        along, across = _axes(size_hw, float(rng.choice([0.785, -0.785])))
        near = np.abs(across) < rng.uniform(1, 4) * pitch
        image[(np.abs(_wrap(across, pitch) - pitch / 2) < thick / 2) & near & (along > 0)] = trace
    return image


def _street(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    height, width = size_hw
    horizon, x = int(height * rng.uniform(0.35, 0.75)), 0
    image = np.linspace(0.08, -0.08, height, dtype=np.float32)[:, None, None] + np.broadcast_to(
        palette[0], (height, width, len(palette[0]))
    )
    while x < width:
        step, top = int(rng.integers(18, 90)), int(horizon * rng.uniform(0.05, 0.9))
        wall = np.clip(palette[rng.integers(1, len(palette))] + rng.normal(0, 0.08), 0, 1).astype(np.float32)
        image[top:horizon, x : x + step] = wall
        if rng.uniform() < 0.7:
            gap_y, gap_x = int(rng.integers(4, 12)), int(rng.integers(3, 12))
            rows, columns = np.arange(horizon - top) % gap_y < gap_y / 2, np.arange(min(step, width - x)) % gap_x < gap_x * 0.6
            facade = image[top:horizon, x : x + step]
            facade -= (np.float32(clutter * rng.uniform(-0.15, 0.25)) * (rows[:, None] & columns[None]))[..., None]
        x += step + int(rng.integers(-4, 12))
    image[horizon:] = palette[-1] * np.linspace(0.85, 1.1, height - horizon, dtype=np.float32)[:, None, None]
    return image + (0.05 * clutter * fractal_noise(rng, size_hw, (25, 6, 2), 0.9))[..., None]


def _roofs(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    image = _vegetation(rng, size_hw, palette[:2], clutter)
    along, across = _axes(size_hw, rng.uniform(0, np.pi))
    pitch_x, pitch_y = rng.uniform(60, 140, 2)
    i, j = np.floor(along / pitch_x).astype(np.int32) & 7, np.floor(across / pitch_y).astype(np.int32) & 7
    half = rng.uniform(0.2, 0.42, (8, 8, 2)).astype(np.float32)
    u, v = _wrap(along / pitch_x, 1) - 0.5, _wrap(across / pitch_y, 1) - 0.5
    roof = (np.abs(u) < half[i, j, 0]) & (np.abs(v) < half[i, j, 1])
    image[np.roll(roof, (4, 4), (0, 1))] *= 0.45
    table = palette[rng.integers(1, len(palette), (8, 8))] + rng.normal(0, 0.08, (8, 8, 1)).astype(np.float32)
    image[roof] = (table[i, j] + (0.08 * np.sign(v) * (half[i, j, 0] > 0.3))[..., None])[roof]
    _blend(image, np.clip(9 - _wrap(across, 2 * pitch_y), 0, 1), palette[-1])
    return image


def _pitch(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    along, across = _axes(size_hw, float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])))
    stripes = np.sign(np.sin(along * np.float32(6.28 / rng.uniform(40, 120))))
    image = palette[0] + (0.03 * stripes + 0.04 * clutter * fractal_noise(rng, size_hw, (40, 3), 0.9))[..., None]
    edges = [np.abs(across - rng.uniform(-100, 100)), np.abs(along - rng.uniform(-100, 100))]
    edges.append(np.abs(np.hypot(along - rng.uniform(-150, 150), across - rng.uniform(-150, 150)) - rng.uniform(30, 120)))
    for edge in edges:
        if rng.uniform() < 0.6:
            _blend(image, 0.85 * np.clip(rng.uniform(0.8, 2.5) - edge, 0, 1), np.clip(palette[0] + 0.5, 0, 1))
    return image


def _bands(rng: np.random.Generator, size_hw: Size, palette: Array, clutter: float) -> Array:
    _, across = _axes(size_hw, float(rng.choice([0.0, np.pi / 2])))
    image = _plain(rng, size_hw, palette, clutter)
    for _ in range(int(rng.integers(1, 5))):
        offset, half = rng.uniform(-120, 120), rng.uniform(1, 14)
        profile = np.clip(half - np.abs(across - offset) + 0.5, 0, 1) * np.float32(rng.uniform(0.2, 1))
        _blend(image, np.broadcast_to(profile, size_hw), palette[1])
    return image


_DRAWN = (_plain, _soil, _vegetation, _gravel, _relief, _fields, _roads, _water, _tissue, _night, _clouds, _circuit)
_DRAWN += (_street, _roofs, _pitch, _bands)
FAMILIES: dict[str, Callable[[np.random.Generator, Size, Array, float], Array]] = {f.__name__[1:]: f for f in _DRAWN}
"""Each family: (random source, (H, W), palette (4, C), clutter 0..1) -> image (H, W, C), not yet clipped."""

_GREEN, _SAND, _ASPHALT, _EARTH = (0.25, 0.36, 0.18), (0.7, 0.6, 0.45), (0.42, 0.42, 0.43), (0.4, 0.3, 0.22)
_NATURAL: dict[str, tuple[tuple[float, float, float], ...]] = {
    "soil": (_EARTH, _SAND, _GREEN, _ASPHALT),
    "vegetation": (_GREEN, (0.42, 0.5, 0.25), _EARTH, _ASPHALT),
    "gravel": ((0.55, 0.53, 0.5), _SAND, _EARTH, _ASPHALT),
    "relief": ((0.42, 0.42, 0.42), _SAND, _EARTH, _ASPHALT),
    "fields": (_GREEN, (0.45, 0.5, 0.28), _SAND, _EARTH),
    "roads": (_GREEN, (0.38, 0.42, 0.25), _SAND, _ASPHALT),
    "water": ((0.15, 0.3, 0.38), _SAND, _GREEN, _ASPHALT),
    "tissue": ((0.88, 0.72, 0.82), (0.72, 0.5, 0.68), (0.5, 0.3, 0.55), (0.95, 0.92, 0.94)),
    "night": ((0.2, 0.22, 0.3), (0.6, 0.5, 0.7), (0.9, 0.8, 0.6), (0.1, 0.1, 0.1)),
    "circuit": ((0.05, 0.38, 0.25), (0.2, 0.62, 0.42), (0.8, 0.75, 0.5), (0.9, 0.9, 0.88)),
    "street": ((0.6, 0.72, 0.85), (0.62, 0.58, 0.52), (0.5, 0.4, 0.36), (0.4, 0.4, 0.41)),
    "roofs": (_GREEN, (0.45, 0.42, 0.36), (0.6, 0.5, 0.44), (0.5, 0.5, 0.5)),
    "pitch": ((0.22, 0.48, 0.2), (0.28, 0.55, 0.25), _SAND, _ASPHALT),
    "bands": ((0.62, 0.58, 0.42), (0.9, 0.88, 0.72), _SAND, _ASPHALT),
}


def _soften(image: Array, blur: float) -> Array:
    """Gaussian blur of `blur` pixels by repeated 3-tap passes, exact in variance."""
    passes = int(np.ceil(blur**2 / 0.6))
    for axis in (0, 1) * passes:
        k = np.float32(blur**2 / passes / 2)
        near = np.concatenate([image.take([0], axis), image, image.take([-1], axis)], axis)
        low, high = (near[:-2], near[2:]) if axis == 0 else (near[:, :-2], near[:, 2:])
        image = image + k * (low + high - 2 * image)
    return image


def draw_background(
    rng: np.random.Generator,
    size_hw: Size,
    *,
    grey: bool,
    clutter: float,
    blur: float = 0.0,
    families: Sequence[str] | None = None,
) -> tuple[Array, str]:
    """Draw a background.

    Args:
        grey: one channel instead of three.
        clutter: strength of irregular texture, 0 (almost none) to 1.
        blur: standard deviation of the optics, pixels.
        families: keys of `FAMILIES` to draw from; None: all.

    Returns:
        (H, W, C) float32 within 0..1, and the name of its family.

    >>> image, family = draw_background(np.random.default_rng(0), (32, 48), grey=True, clutter=0.5)
    >>> image.shape, family in FAMILIES
    ((32, 48, 1), True)
    """
    family = list(FAMILIES)[rng.integers(len(FAMILIES))]
    if families is not None:  # one draw decides in both cases, so that nothing after it moves
        family = families[list(FAMILIES).index(family) % len(families)]
    if family in _NATURAL and rng.uniform() < 0.7:
        palette = np.array(_NATURAL[family], np.float32) * rng.uniform(0.6, 1.25) + rng.normal(0, 0.05, (4, 3))
    else:
        palette = rng.uniform(0.05, 0.95) + rng.uniform(0.05, 0.3) * rng.standard_normal((4, 3)) * rng.uniform(0.2, 1, (1, 3))
    if family == "circuit" and rng.uniform() < 0.35:
        palette = np.array([[0.0], [1.0], [0.5], [1.0]]) * np.ones(3)
        palette = palette if rng.uniform() < 0.5 else 1 - palette
        clutter = 0.0
    palette = np.clip(palette, 0.0, 1.0).astype(np.float32)
    if grey:
        palette = palette.mean(1, keepdims=True)
    image = FAMILIES[family](rng, size_hw, palette, clutter).astype(np.float32)
    return _soften(np.clip(image, 0, 1), blur if blur > 0.3 else 0.0), family
