"""What a synthetic scene shall hold, before anything of it is drawn: overrides, chance, categories and counts."""

from colorsys import hsv_to_rgb, rgb_to_hsv
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dealkit.data.scenes.backgrounds import FAMILIES as GROUNDS
from dealkit.data.scenes.canvas import LAYOUTS
from dealkit.data.scenes.shapes import FAMILIES as SHAPES
from dealkit.data.scenes.sprites import Category, draw_category, vary_category

MAX_COVER = 0.45
"""Most of the image that objects may fill, as the sum of their box areas; counts are lowered to respect it."""


TWINS: dict[str, tuple[float, float, str]] = {
    "hue": (0.0, 0.5, "turns of the colour wheel; both are saturated and flat"),
    "lightness": (0.0, 0.5, "distance of the colours; 0..1, lighter or darker, both are flat"),
    "size": (1.0, 3.0, "ratio of the sizes"),
    "aspect": (1.0, 4.0, "length over width; of the second, the first has 1, both are ellipses"),
    "angle": (0.0, 90.0, "degrees; between the fixed directions of rectangles of aspect 2.5"),
    "pattern": (0.0, 0.5, "contrast of the stripes; of the second, distance from its main colour, the first is flat"),
}
"""Attributes by which two categories can be made to differ: smallest and largest step, and its unit."""


@dataclass(frozen=True, kw_only=True)
class SceneControls:
    """Overrides for controlled experiments: None leaves a factor to chance; setting one leaves the draws of the others alone."""

    num_objects: int | None = None
    """Objects to place, at least 1; fewer are placed where no more fit."""
    num_categories: int | None = None
    """Categories, at least 1 and at most the number of objects."""
    object_size: float | None = None
    """Square root of every object's box area before the image border and other objects cut it, pixels, right within a tenth or
    half a pixel; from 2 to half the image's shorter side. A blurred object cannot be smaller than its blur."""
    contrast: float | None = None
    """Mean distance of each category's main colour from the mean background, 0..1."""
    blur: float | None = None
    """Standard deviation of the optics, pixels, 0 or more."""
    clutter: float | None = None
    """Strength of the background's irregular texture, 0..1."""
    grey: bool | None = None
    """One channel, repeated to three."""
    enlarge: float | None = None
    """Factor on the size of every category, 0.25 to 16; none exceeds half the image's shorter side. None: 1."""
    sizes: tuple[float, float] | None = None
    """Smallest and largest size, pixels; every category draws its own, log-uniformly. None: one scale per scene."""
    variety: float | None = None
    """Share of the categories whose objects differ inside and in size from one another, 0..1. None: 0."""
    grounds: tuple[str, ...] | None = None
    """Families of backgrounds to draw from, keys of `backgrounds.FAMILIES`. None: all."""
    shapes: tuple[str, ...] | None = None
    """Families of objects to draw from, keys of `shapes.FAMILIES`. None: all."""
    spacing: float | None = None
    """Distance of the centres of neighbours in sizes of the object, 0.8 or more: all stand on one square lattice, filled from the
    middle of the image outwards; at less than 1.4 a turned object may cover some of its neighbour. For one category."""
    cut: float | None = None
    """Share of its side by which every other object hangs over the border of the image, -4 (four sides inside) to 0.5; the rest
    stand away from the border. For one category."""
    size_jitter: float | None = None
    """Standard deviation of log size within every category, 0..0.7; not together with `object_size`."""
    colour_jitter: float | None = None
    """Standard deviation of colour within every category, 0..0.5."""
    twin: tuple[str, float] | None = None
    """Two categories, equal but for one attribute of `TWINS` and its step."""

    def __post_init__(self) -> None:
        for name, known in (("grounds", GROUNDS), ("shapes", SHAPES)):
            values = getattr(self, name)
            if values is not None and not (values and set(values) <= set(known)):
                raise ValueError(f"{name}: expected some of {', '.join(known)}, got {values}")
        limits = {"num_objects": (1, np.inf), "num_categories": (1, np.inf), "object_size": (2, np.inf), "contrast": (0, 1)}
        limits |= {"blur": (0, np.inf), "clutter": (0, 1), "enlarge": (0.25, 16), "variety": (0, 1), "spacing": (0.8, np.inf)}
        limits |= {"cut": (-4, 0.5), "size_jitter": (0, 0.7), "colour_jitter": (0, 0.5)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}: expected {low} to {high}, got {value}")
        if self.sizes is not None and not 2 <= self.sizes[0] <= self.sizes[1]:
            raise ValueError(f"sizes: expected 2 <= smallest <= largest, got {self.sizes}")
        if self.size_jitter is not None and self.object_size is not None:
            raise ValueError("size_jitter: expected no object_size beside it, which makes all sizes equal")
        if self.twin is not None:
            attribute, step = self.twin
            if attribute not in TWINS or not TWINS[attribute][0] <= step <= TWINS[attribute][1]:
                ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high, _) in TWINS.items())
                raise ValueError(f"twin: expected an attribute and its step ({ranges}), got {self.twin}")
            if attribute == "size" and self.object_size is not None:
                raise ValueError("twin: expected no object_size beside a step of size")


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """What a scene shall be, before anything is drawn."""

    grey: bool
    clutter: float
    """Strength of the background's texture, 0..1."""
    blur: float
    """Standard deviation of the optics, pixels."""
    num_objects: int
    num_categories: int
    scale: float
    """Typical object size of the scene, pixels."""
    max_overlap: float
    """Largest share of an object's support that may lie on others when it is placed."""
    shadow: tuple[float, float]
    """Direction in radians and strength of the shadows."""
    light: float
    """Where the light on shaded bodies comes from, radians."""
    chroma: float
    """How colourful the objects are, 0..1."""
    shared_layout: bool
    """Whether all categories take their places from one layout, such as one car park."""
    layouts: tuple[str, ...]
    """Layout of each category, or of all of them in its first place."""
    split: tuple[float, ...]
    """Shares of the categories in the number of objects."""


def draw_plan(rng: np.random.Generator, size_hw: tuple[int, int], controls: SceneControls) -> ScenePlan:
    """Draw a plan. Every value is drawn, then overridden, so that an override moves no other draw.

    >>> draw_plan(np.random.default_rng(0), (64, 64), SceneControls(num_objects=5, blur=1)).num_objects
    5
    """
    clutter = float(rng.choice([0.15, 0.4, 0.7, 1.0], p=[0.25, 0.35, 0.25, 0.15]))
    blur = float(rng.choice([0.25, 0.45, rng.uniform(0.5, 1.4)], p=[0.25, 0.4, 0.35]))
    grey = bool(rng.uniform() < 0.35)
    num_objects = int(np.exp(rng.uniform(0, np.log(300))) + 0.5)
    num_categories = 1 + int(rng.choice(6, p=[0.25, 0.25, 0.2, 0.15, 0.1, 0.05]))
    num_objects = controls.num_objects or num_objects
    return ScenePlan(
        grey=grey if controls.grey is None else controls.grey,
        clutter=clutter if controls.clutter is None else float(controls.clutter),
        blur=blur if controls.blur is None else float(controls.blur),
        num_objects=num_objects,
        num_categories=min(1 if controls.twin else controls.num_categories or num_categories, num_objects),
        scale=min(float(np.exp(rng.uniform(np.log(2.5), np.log(45)))), 0.25 * min(size_hw)),
        max_overlap=float(rng.choice([0.0, 0.12, 0.35], p=[0.5, 0.3, 0.2])),
        shadow=(float(rng.uniform(0, 6.28)), float(rng.uniform(0.2, 0.6)) * float(rng.uniform() < 0.25)),
        light=float(rng.uniform(0, 6.28)),
        chroma=float(rng.uniform() ** 1.5),
        shared_layout=bool(rng.uniform() < 0.5),
        layouts=tuple(str(x) for x in rng.choice(LAYOUTS, 6, p=[0.3, 0.15, 0.15, 0.1, 0.12, 0.18])),
        split=tuple((rng.dirichlet(np.full(6, 0.8)) if controls.twin is None else np.ones(6)).tolist()),
    )


def scene_categories(
    rngs: list[np.random.Generator], plan: ScenePlan, controls: SceneControls, mean: NDArray[np.float32], spread: float
) -> list[Category]:
    """One category per random source; each can be told from those before it, or is left out.

    Args:
        mean: (C,) mean colour of the background.
        spread: its standard deviation; busier backgrounds get stronger contrasts.
    """
    found: list[Category] = []
    for rng in rngs:
        for _ in range(6):
            size = float(np.clip(plan.scale * np.exp(rng.normal(0, 0.45)), 2, 48 if rng.uniform() > 0.04 else 96))
            low = max(min(0.9 * spread, 0.3), 0.08 if size > 12 else 0.14 if size > 5 else 0.22)
            contrast = float(np.clip(low * np.exp(rng.exponential(0.8)), low, 0.85))
            contrast = contrast if controls.contrast is None else controls.contrast
            c = draw_category(rng, size=size, background=mean, contrast=contrast, chroma=plan.chroma, families=controls.shapes)
            if found and rng.uniform() < 0.35:
                c = vary_category(found[int(rng.integers(len(found)))], c, rng)
            if controls.object_size is not None:
                c = replace(c, size=float(controls.object_size), size_jitter=0.0)
            if controls.contrast is not None:
                c = replace(c, colour_jitter=0.0)
            if all(_distinct(c, other) for other in found):
                found.append(c)
                break
    return found


def alter_categories(
    categories: list[Category], controls: SceneControls, rng: np.random.Generator, size_hw: tuple[int, int]
) -> list[Category]:
    """The categories with `enlarge`, `sizes` and `variety` of the controls applied.

    One that a new size makes look like another is left out; where two differ only inside, both stay uniform.

    Choice: after the draw, with a random source of its own, so that these controls change nothing else in a scene.
    """
    limit, chances, drawn = 0.5 * min(size_hw), rng.uniform(0, 1, len(categories)), rng.uniform(0, 1, len(categories))
    kept: list[Category] = []
    for c, share in zip(categories, drawn, strict=True):
        size = c.size * (controls.enlarge or 1.0)
        if controls.sizes is not None:
            low, high = controls.sizes
            size = low * (high / low) ** share
        c = replace(c, size=float(np.clip(size, 2.0, limit)))
        if controls.sizes is None or all(_distinct(c, other) for other in kept):
            kept.append(c)
    altered = []
    for i, (c, chance) in enumerate(zip(kept, chances, strict=False)):
        others = kept[:i] + kept[i + 1 :]
        alone = all(_distinct(replace(c, pattern=o.pattern, outline=o.outline), o) for o in others)
        varied = alone and c.family != "point" and chance < (controls.variety or 0.0)
        if varied:
            c = replace(c, individual=float(rng.uniform(0.3, 1)))
            spread = replace(c, size_jitter=max(c.size_jitter, float(rng.uniform(0.1, 0.35))))
            if controls.object_size is None and all(_distinct(spread, other) for other in others):
                c = spread
        altered.append(c)
    return altered


def fix_categories(categories: list[Category], controls: SceneControls) -> list[Category]:
    """The categories with `size_jitter`, `colour_jitter` and `twin` of the controls applied; without those, as they are.

    >>> rng, grey = np.random.default_rng(0), np.full(3, 0.4)
    >>> one = draw_category(rng, size=16.0, background=grey, contrast=0.3)
    >>> [c.size for c in fix_categories([one], SceneControls(twin=("size", 1.5)))]
    [16.0, 24.0]
    """
    for name in ("size_jitter", "colour_jitter"):
        value = getattr(controls, name)
        if value is not None:
            categories = [replace(c, **{name: float(value)}) for c in categories]
    return _twins(categories[0], *controls.twin) if controls.twin and categories else categories


def _twins(c: Category, attribute: str, step: float) -> list[Category]:
    """Two categories that differ in one attribute alone; what would hide the step is taken from both."""
    c = replace(c, size_jitter=min(c.size_jitter, 0.03), colour_jitter=0.0, individual=0.0)
    if c.family == "point":
        c = replace(c, family="ellipse")
    if attribute in ("hue", "lightness", "pattern"):
        c = replace(c, pattern="flat", shade="none", outline=0.0, opacity=1.0)
    if attribute == "hue":
        hue, saturation, value = rgb_to_hsv(*np.resize(c.colour, 3).tolist())
        saturation, value = max(saturation, 0.6), max(value, 0.5)
        colours = [hsv_to_rgb((hue + turn) % 1.0, saturation, value) for turn in (0.0, step)]
        return [replace(c, colour=colour) for colour in colours]
    main = np.array(c.colour)
    away = tuple(np.clip(main + (step if main.mean() < 0.5 else -step), 0, 1).tolist())
    if attribute == "lightness":
        return [c, replace(c, colour=away)]
    if attribute == "pattern":
        return [c, replace(c, pattern="stripes", second=away)]
    if attribute == "size":
        return [c, replace(c, size=c.size * step)]
    if attribute == "aspect":
        c = replace(c, family="ellipse", aspect=1.0)
        return [c, replace(c, aspect=float(step))]
    c = replace(c, family="rectangle", aspect=2.5, turn="fixed", shape_jitter=min(c.shape_jitter, 0.05))
    return [c, replace(c, angle=c.angle + float(np.radians(step)))]


def _distinct(a: Category, b: Category) -> bool:
    """Whether a viewer could tell two categories apart at their size; a few pixels show only colour and size."""
    ratio = max(a.size, b.size) / min(a.size, b.size)
    if ratio > 1.7 and max(a.size_jitter, b.size_jitter) <= 0.2:
        return True
    if float(np.abs(np.subtract(a.colour, b.colour)).max()) > 0.2 + 2 * max(a.colour_jitter, b.colour_jitter):
        return True
    small = min(a.size, b.size)
    return (small >= 9 and a.family != b.family) or (small >= 13 and (a.pattern, a.outline > 0) != (b.pattern, b.outline > 0))


def object_counts(plan: ScenePlan, categories: list[Category], size_hw: tuple[int, int], *, exact: bool) -> list[int]:
    """Objects per category, at least one each; unless `exact`, so few that they fill no more than `MAX_COVER` of the image."""
    split = np.resize(plan.split, len(categories)) + 0.03
    counts = 1 + ((plan.num_objects - len(categories)) * split / split.sum()).astype(int)
    counts[split.argmax()] += plan.num_objects - counts.sum()
    cover = sum(n * c.size**2 for n, c in zip(counts, categories, strict=True)) / (size_hw[0] * size_hw[1])
    return (counts if exact else np.maximum(1, (counts / max(1.0, cover / MAX_COVER)).astype(int))).tolist()
