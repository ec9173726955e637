"""The training stream: sample number i of a seeded mix of procedural scenes and COCO folders, and its prompts."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dealkit.boxes import in_regions, to_cxcywh
from dealkit.config import DataConfig
from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.mixing import mosaic, paste_distractors, paste_kinds
from dealkit.data.scenes.plan import TWINS
from dealkit.data.scenes.scene import TRAIN_SEED, make_scene
from dealkit.data.transforms import augment, in_image, random_int, random_share, recolour
from dealkit.files import files_and_folder
from dealkit.model.loss import Target
from dealkit.prompts import PointPrompts, simulate_clicks, stack_prompts

Samples = torch.utils.data.Dataset[Sample]


def open_sources(
    entries: tuple[str, ...], weights: tuple[float, ...] = (), temperature: float = 0.0
) -> tuple[list[Samples], np.ndarray]:
    """COCO folders named by `annotations.json` or `annotations.json:image_folder`; the first part may be a glob pattern.

    Without a folder, that of `dealkit.data.annotations.image_folder` is taken. Entries are opened in order, matches of a pattern
    sorted. The `index.parquet` of a TinySet stands for the sources of its training split, balanced by domain.

    Returns:
        the sources, and the probability of drawing each: `weights` of its entry, or 1, times its number of images to the
        `temperature`.

    Raises:
        ValueError: a pattern that matches nothing, or a bad file; names it.
    """
    sources: list[Samples] = []
    shares: list[float] = []
    for entry, weight in zip(entries, weights or (1.0,) * len(entries), strict=True):
        files, folder = files_and_folder(entry, "data.coco")
        for file in files:
            if file.suffix == ".parquet":
                from dealkit.data.tinyset.index import TinySet

                parts, own = TinySet(file).select(split="train").balanced()
                sources += parts
                shares += (weight * own).tolist()
                continue
            sources.append(CocoFolder(file, folder))
            shares.append(weight * max(len(sources[-1]), 1) ** temperature)
    return sources, np.array(shares) / max(sum(shares), 1e-9)


class TrainingStream(torch.utils.data.Dataset[Sample]):
    """Augmented crops, numbered from 0: sample i depends only on the seed and i, so a run can continue anywhere.

    Choice: sources differ a hundredfold in size but hardly in what they teach, so their sizes count little (`temperature`).
    Of the samples 2 n and 2 n + 1, a share `partners` are two images of one source, for prompts from one to the other.
    """

    def __init__(self, config: DataConfig, seed: int, length: int):
        self.config, self.seed, self.length = config, seed, length
        self.sources, self.shares = open_sources(config.coco, config.weights, config.temperature)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        config = self.config
        rng = np.random.default_rng([self.seed, index])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        both = np.random.default_rng([self.seed, index // 2, 1])
        if self.sources and both.random() < config.partners:
            source = self.sources[both.choice(len(self.sources), p=self.shares)]
            images = both.choice(len(source), 2, replace=len(source) < 2)
            return self.crop(source[int(images[index % 2])], rng, generator)
        if not self.sources or rng.random() < config.synthetic:
            larger = 4 ** rng.random() if rng.random() < config.large_scenes else None
            size_hw, seed = (config.size, config.size), TRAIN_SEED + self.seed
            twins = draw_twins(rng) if rng.random() < config.twins else {}
            scene = make_scene(index, size_hw=size_hw, seed=seed, enlarge=larger, variety=config.variety, **twins)
            if rng.random() < config.enlarged_scenes:
                return augment(scene, size=config.size, scale=(1.0, 2.0), generator=generator)
            return replace(scene, image=recolour(scene.image, generator=generator))
        if rng.random() < config.mosaic:
            drawn = [self.draw(rng) for _ in range(int(rng.integers(2, 5)))]
            return mosaic([self.crop(drawn[i % len(drawn)], rng, generator, config.size // 2) for i in range(4)])
        return self.crop(self.draw(rng), rng, generator)

    def draw(self, rng: np.random.Generator) -> Sample:
        """A whole image of a source."""
        source = self.sources[rng.choice(len(self.sources), p=self.shares)]
        return source[int(rng.integers(len(source)))]

    def crop(self, sample: Sample, rng: np.random.Generator, generator: torch.Generator, size: int = 0) -> Sample:
        """A crop of an image, with or without distractors and pasted kinds."""
        config = self.config
        made = augment(sample, size=size or config.size, scale=(config.min_scale, config.max_scale), generator=generator)
        if rng.random() < config.distractors and (donor := self.draw(rng)).source != sample.source:
            made = paste_distractors(made, donor, generator=generator)
        if config.pasted_kinds and rng.random() < config.pasted_kinds:
            made = paste_kinds(made, self.draw(rng), generator=generator)
        return made


def draw_twins(rng: np.random.Generator) -> dict[str, Any]:
    """Controls of a scene with two kinds that differ in one attribute, by a step in the upper 70 % of its range.

    Choice: hue in half of the cases; of all attributes a network trained on other scenes used it least.

    >>> sorted(draw_twins(np.random.default_rng(0)))
    ['grey', 'twin']
    """
    others = [name for name in TWINS if name != "hue"]
    name = "hue" if rng.random() < 0.5 else others[rng.integers(len(others))]
    low, high, _ = TWINS[name]
    return {"twin": (name, low + (high - low) * rng.uniform(0.3, 1)), "grey": False if name == "hue" else None}


NOTHING = -1
"""Label of a prompt that nothing answers."""

BARE = 6.0
"""Standard deviation in grey levels of a bare patch of a photograph. Choice: an object may be unlabelled."""


PRIVATE = ("synthetic", "mosaic")
"""Sources whose kinds are those of one image alone."""

CONVENTION = (0.75, 1.4)
"""Factors by which the boxes of a prompt with a drawn box are scaled. Choice: margins of annotators differ about so much."""


@dataclass(frozen=True, kw_only=True)
class TrainingPrompts:
    """Prompts of a batch: what was clicked, and what is asked of which image."""

    clicked: PointPrompts
    """M sets with clicks, to embed."""
    asked: PointPrompts
    """N sets, to detect: the clicks of the same image, none where the prompt comes from another one."""
    origin: Tensor
    """(N,) int64: the clicked set whose embedding each asked set has."""
    targets: list[Target]
    """What each asked set should find."""

    def __len__(self) -> int:
        return len(self.asked)


@dataclass(frozen=True, kw_only=True)
class ClickedSet:
    """One prompt as it was given in an image."""

    image: int
    """Number in the batch."""
    label: int
    """Of its kind in the image's source; `NOTHING` for bare ground."""
    points: Tensor
    """(P, 2) xy pixels."""
    labels: Tensor
    """(P,) 1 this, 0 not this."""
    objects: Tensor
    """(P,) the object of the kind that each was clicked on; -1 for none."""
    sizes: Tensor
    """(P, 2) of drawn boxes, pixels; 0 where it was only clicked."""
    factor: Tensor
    """(2,) by which width and height of all boxes of the kind are scaled."""


def draw_prompts(samples: list[Sample], config: DataConfig, generator: torch.Generator) -> TrainingPrompts:
    """Training prompts for a batch: up to `sets_per_image` categories of each image, as `click_kind` clicks them, and what each
    should find.

    Half of the prompts of a kind that another image of the same source shows come from there. A share `absent` of the images are
    asked for a kind that they do not show, a share `background` are clicked where there is nothing. An image without objects has
    no set of its own.
    """
    clicked: list[ClickedSet] = []
    for b, sample in enumerate(samples):
        present = sample.labels[~sample.crowd].unique()
        for label in present[torch.randperm(len(present), generator=generator)][: config.sets_per_image].tolist():
            clicked.append(click_kind(sample, b, label, config, generator))
        if random_share(generator) < config.background and (ground := bare_ground(sample, generator)) is not None:
            nothing = {"objects": torch.tensor([-1]), "sizes": torch.zeros(1, 2), "factor": torch.ones(2)}
            clicked.append(ClickedSet(image=b, label=NOTHING, points=ground, labels=torch.ones(1).long(), **nothing))

    def of(m: int) -> tuple[str, int]:
        return samples[clicked[m].image].source, clicked[m].label

    def other(rows: list[int]) -> int:
        return rows[random_int(0, len(rows) - 1, generator)]

    asked: list[tuple[int, int, int, bool]] = []  # image, label, clicked set, whether its clicks are in this image
    for m, own in enumerate(clicked):
        same = [n for n, each in enumerate(clicked) if each.image != own.image and of(n) == of(m)]
        may = own.label != NOTHING and of(m)[0] not in PRIVATE and bool(same)
        foreign = may and random_share(generator) < 0.5
        asked.append((own.image, own.label, other(same) if foreign else m, not foreign))
    for b, sample in enumerate(samples):
        here = {(sample.source, label) for label in sample.labels.tolist()}
        absent = [m for m, each in enumerate(clicked) if each.image != b and each.label != NOTHING and of(m) not in here]
        if absent and random_share(generator) < config.absent:
            asked.append((b, NOTHING, other(absent), False))

    rows = [(b, label, clicked[m], slice(None if own else 0)) for b, label, m, own in asked]  # the last: its clicks in this image
    prompts, targets = stack_sets(
        [(each.points[k], each.labels[k]) for _, _, each, k in rows],
        [b for b, *_ in rows],
        [target_in(samples[b], label, each.factor, each.objects[k]) for b, label, each, k in rows],
        [each.sizes[k] for _, _, each, k in rows],
    )
    given = [(each.points, each.labels) for each in clicked]
    return TrainingPrompts(
        clicked=stack_prompts(given, [each.image for each in clicked], [each.sizes for each in clicked]),
        asked=prompts,
        origin=torch.tensor([m for _, _, m, _ in asked], dtype=torch.int64),
        targets=targets,
    )


def click_kind(sample: Sample, image: int, label: int, config: DataConfig, generator: torch.Generator) -> ClickedSet:
    """One kind of an image, clicked at random.

    One click in two cases of three, else 2 to `max_clicks` on different objects. Half of the prompts click at the centre, half
    up to a share of the half-extent beside it, itself drawn up to `config.wander`. A share `drawn` are boxes instead. A share
    `not_this` have a click on an object of another kind, too, that says so.
    """
    of_kind, solid = sample.labels == label, ~sample.crowd
    boxes, others = sample.boxes[of_kind & solid], to_cxcywh(sample.boxes[~of_kind & solid])[:, :2]
    wanted = 1 if config.max_clicks == 1 or random_int(0, 2, generator) else random_int(2, config.max_clicks, generator)
    chosen = torch.randperm(len(boxes), generator=generator)[:wanted]
    drawn = random_share(generator) < config.drawn
    spread = 0.0 if drawn else config.wander * random_int(0, 1, generator) * random_share(generator)
    points = simulate_clicks(boxes[chosen], spread=spread, generator=generator)
    low, high = map(math.log, CONVENTION)
    factor = (low + (high - low) * torch.rand(2, generator=generator)).exp() if drawn else torch.ones(2)
    noise = 1 + 0.1 * (torch.rand(len(chosen), 2, generator=generator) - 0.5)  # nobody draws to the pixel
    labels, sizes = torch.ones(len(chosen)).long(), to_cxcywh(boxes[chosen])[:, 2:] * factor * noise * drawn
    if len(others) and random_share(generator) < config.not_this:
        points = torch.cat([points, others[random_int(0, len(others) - 1, generator)][None]])
        labels, chosen, sizes = F.pad(labels, (0, 1)), F.pad(chosen, (0, 1), value=-1), F.pad(sizes, (0, 0, 0, 1))
    return ClickedSet(image=image, label=label, points=points, labels=labels, objects=chosen, sizes=sizes, factor=factor)


def bare_ground(sample: Sample, generator: torch.Generator) -> Tensor | None:
    """A point (1, 2) without an object within 8 px, of 16 drawn; in photographs only where the 24 px around are plain.

    Half of the points lie at most 6 px from a border of the image, which may end before the crop does. Choice: at the right and
    the lower border, where inputs are padded, bare ground was often taken for an object.
    """
    inside = in_image(sample.image)
    if not inside.any():
        return None
    sides = [inside.any(axis).nonzero()[:, 0] for axis in (0, 1)]
    low, high = torch.stack([side[0] for side in sides]).float(), torch.stack([side[-1] + 1 for side in sides]).float()
    points = low + torch.rand(16, 2, generator=generator) * (high - low)
    for point in points:
        axis, depth, end = random_int(0, 1, generator), 6 * random_share(generator), random_int(0, 3, generator)
        if end < 2:  # else the point stays
            point[axis] = max(high[axis] - depth, low[axis]) if end else min(low[axis] + depth, high[axis])
    free = ~in_regions(points, sample.boxes + torch.tensor([-8.0, -8.0, 8.0, 8.0]))
    xs, ys = zip(low.tolist(), high.tolist(), strict=True)
    for x, y in points[free].tolist():
        rows, columns = (slice(max(int(v) - 12, int(a)), min(int(v) + 12, int(b))) for v, a, b in ((y, *ys), (x, *xs)))
        patch = sample.image[:, rows, columns].float()
        if sample.source == "synthetic" or float(patch.mean(0).std()) < BARE:
            return torch.tensor([[x, y]])
    return None


def target_in(sample: Sample, label: int, factor: Tensor, clicked: Tensor) -> Target:
    """What a prompt of one kind should find in a sample, its boxes scaled by `factor` (2,) of width and height."""
    of_kind, solid = sample.labels == label, ~sample.crowd
    boxes = to_cxcywh(sample.boxes[of_kind & solid])
    return Target(
        boxes=torch.cat([boxes[:, :2], boxes[:, 2:] * factor], dim=1),
        crowd=to_cxcywh(sample.boxes[of_kind & sample.crowd]),
        clicked=clicked,
        rivals=to_cxcywh(sample.boxes[~of_kind & solid]),
    )


def stack_sets(
    clicks: list[tuple[Tensor, Tensor]], images: list[int], targets: list[Target], sizes: list[Tensor] | None = None
) -> tuple[PointPrompts, list[Target]]:
    """`stack_prompts` of sets that may have no click, and the targets with `clicked` padded to the most clicks of a set by -1."""
    prompts = stack_prompts(clicks, images, sizes, embedded=True)
    width = prompts.points.shape[1]
    return prompts, [replace(t, clicked=F.pad(t.clicked, (0, width - len(t.clicked)), value=-1)) for t in targets]


def noisy_boxes(targets: list[Target], generator: torch.Generator, *, most: int = 20) -> tuple[Tensor, Tensor]:
    """Boxes for the decoder to correct: up to `most` objects of every set, shifted by up to 0.4 of their size and scaled by up
    to 1.65 either way.

    Returns:
        boxes (N, R, 4) cxcywh pixels, rows of zeros for padding; origin (N, R) int64, the object of each, -1 for padding.

    Source: DN-DETR, arXiv 2203.01305. Choice: boxes only, no labels or scores: the prompt says what is meant, and the noise is
    that of a query's first box.
    """
    chosen = [torch.randperm(len(t.boxes), generator=generator)[:most] for t in targets]
    boxes = pad_sequence([t.boxes[c] for t, c in zip(targets, chosen, strict=True)], batch_first=True)
    origin = pad_sequence(chosen, batch_first=True, padding_value=-1)
    noise = 2 * torch.rand(boxes.shape, generator=generator) - 1
    centre = boxes[..., :2] + 0.4 * noise[..., :2] * boxes[..., 2:]
    return torch.cat([centre, boxes[..., 2:] * (0.5 * noise[..., 2:]).exp()], dim=-1), origin
