"""The training stream: sample number i of a seeded mix of procedural scenes and COCO folders, and its prompts."""

import glob
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dealkit.boxes import in_regions, to_cxcywh
from dealkit.config import DataConfig
from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.mixing import mosaic, paste_distractors
from dealkit.data.scenes.plan import TWINS
from dealkit.data.scenes.scene import TRAIN_SEED, make_scene
from dealkit.data.transforms import augment, recolour
from dealkit.model.loss import Target
from dealkit.prompts import PointPrompts, simulate_clicks, stack_prompts

Samples = torch.utils.data.Dataset[Sample]


def open_sources(
    entries: tuple[str, ...], weights: tuple[float, ...] = (), temperature: float = 0.0
) -> tuple[list[Samples], np.ndarray]:
    """COCO folders named by `annotations.json` or `annotations.json:image_folder`; the first part may be a glob pattern.

    Without a folder, `images` beside the file is taken. Entries are opened in order, matches of a pattern sorted. The
    `index.parquet` of a TinySet stands for the sources of its training split, balanced by domain.

    Returns:
        the sources, and the probability of drawing each: `weights` of its entry, or 1, times its number of images to the
        `temperature`.

    Raises:
        ValueError: a pattern that matches nothing, or a bad file; names it.
    """
    sources: list[Samples] = []
    shares: list[float] = []
    for entry, weight in zip(entries, weights or (1.0,) * len(entries), strict=True):
        pattern, _, folder = entry.partition(":")
        files = sorted(glob.glob(pattern))
        if not files:
            raise ValueError(f"data.coco: no file matches {pattern!r}; expected a file, or a file:image_folder")
        for file in files:
            if file.endswith(".parquet"):
                from dealkit.data.tinyset.index import TinySet

                parts, own = TinySet(Path(file)).select(split="train").balanced()
                sources += parts
                shares += (weight * own).tolist()
                continue
            sources.append(CocoFolder(Path(file), Path(folder) if folder else Path(file).parent / "images"))
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
            sample = source[int(images[index % 2])]
            return self.crop(coarse_kinds(sample, source) if both.random() < config.coarse else sample, rng, generator)
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
        sample = source[int(rng.integers(len(source)))]
        return coarse_kinds(sample, source) if rng.random() < self.config.coarse else sample

    def crop(self, sample: Sample, rng: np.random.Generator, generator: torch.Generator, size: int = 0) -> Sample:
        """A crop of an image, with or without distractors."""
        config = self.config
        made = augment(sample, size=size or config.size, scale=(config.min_scale, config.max_scale), generator=generator)
        if rng.random() < config.distractors and (donor := self.draw(rng)).source != sample.source:
            made = paste_distractors(made, donor, generator=generator)
        return made


def coarse_kinds(sample: Sample, source: Samples) -> Sample:
    """The sample with one label for all categories of its source whose names end in one word; the first of them.

    Choice: data sets tell coins or lamps apart where a click means all of them, and the other way round.
    """
    words = [name.split()[-1].lower() if name.split() else name for _, name in getattr(source, "categories", ())]
    if len(set(words)) == len(words):
        return sample
    return replace(sample, labels=torch.tensor([words.index(word) for word in words])[sample.labels])


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


def draw_prompts(samples: list[Sample], config: DataConfig, generator: torch.Generator) -> TrainingPrompts:
    """Training prompts for a batch: up to `sets_per_image` categories of each image, clicked at random, and what each should
    find.

    One click in two cases of three, else 2 to `max_clicks` on different objects. Half of the prompts click at the centre, half
    up to a share of the half-extent beside it, itself drawn up to `config.wander`. A share `drawn` are boxes instead. Half of
    the prompts of a kind that another image of the same source shows come from there. A share `absent` of the images are asked
    for a kind that they do not show, a share `background` are clicked where there is nothing. An image without objects has no
    set of its own.
    """

    def chance() -> float:
        return float(torch.rand((), generator=generator))

    def randint(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    kinds: list[tuple[int, int]] = []  # (image, label) of every clicked set
    clicks: list[tuple[Tensor, Tensor, Tensor]] = []  # its points, their labels, and the object that each was clicked on
    sizes: list[Tensor] = []
    factors: list[Tensor] = []
    for b, sample in enumerate(samples):
        present = sample.labels[~sample.crowd].unique()
        for label in present[torch.randperm(len(present), generator=generator)][: config.sets_per_image].tolist():
            boxes = sample.boxes[(sample.labels == label) & ~sample.crowd]
            wanted = 1 if config.max_clicks == 1 or randint(0, 2) else randint(2, config.max_clicks)
            chosen = torch.randperm(len(boxes), generator=generator)[:wanted]
            drawn = chance() < config.drawn
            spread = 0.0 if drawn else config.wander * randint(0, 1) * chance()
            points, labels = simulate_clicks(boxes[chosen], spread=spread, generator=generator), torch.ones(len(chosen)).long()
            low, high = map(math.log, CONVENTION)
            factors.append((low + (high - low) * torch.rand(2, generator=generator)).exp() if drawn else torch.ones(2))
            noise = 1 + 0.1 * (torch.rand(len(chosen), 2, generator=generator) - 0.5)  # nobody draws to the pixel
            extent = to_cxcywh(boxes[chosen])[:, 2:] * factors[-1] * noise * drawn
            others = to_cxcywh(sample.boxes[(sample.labels != label) & ~sample.crowd])[:, :2]
            if len(others) and chance() < config.not_this:
                points = torch.cat([points, others[randint(0, len(others) - 1)][None]])
                labels, chosen, extent = F.pad(labels, (0, 1)), F.pad(chosen, (0, 1), value=-1), F.pad(extent, (0, 0, 0, 1))
            clicks.append((points, labels, chosen))
            sizes.append(extent)
            kinds.append((b, label))
        if chance() < config.background and (ground := bare_ground(sample, generator)) is not None:
            clicks.append((ground, torch.ones(1).long(), torch.full((1,), -1)))
            factors.append(torch.ones(2))
            sizes.append(torch.zeros(1, 2))
            kinds.append((b, NOTHING))

    asked: list[tuple[int, int, int, bool]] = []  # image, label, clicked set, whether its clicks are in this image
    for m, (b, label) in enumerate(kinds):
        own = samples[b].source
        others = [n for n, (c, same) in enumerate(kinds) if c != b and same == label and samples[c].source == own]
        foreign = label != NOTHING and own not in PRIVATE and bool(others) and chance() < 0.5
        asked.append((b, label, others[randint(0, len(others) - 1)] if foreign else m, not foreign))
    for b, sample in enumerate(samples):
        here = {(sample.source, label) for label in (*sample.labels.tolist(), NOTHING)}
        absent = [
            n for n, (c, label) in enumerate(kinds) if c != b and label != NOTHING and (samples[c].source, label) not in here
        ]
        if absent and chance() < config.absent:
            asked.append((b, NOTHING, absent[randint(0, len(absent) - 1)], False))

    first = [len(clicks[m][0]) if own else 0 for _, _, m, own in asked]  # clicks of each asked set
    images = [b for b, *_ in asked]
    targets = [
        target_in(samples[b], label, factors[m], clicks[m][2][:k]) for (b, label, m, _), k in zip(asked, first, strict=True)
    ]
    own_clicks = [(clicks[m][0][:k], clicks[m][1][:k]) for (_, _, m, _), k in zip(asked, first, strict=True)]
    prompts, targets = stack_sets(
        own_clicks, images, targets, [sizes[m][:k] for (_, _, m, _), k in zip(asked, first, strict=True)]
    )
    return TrainingPrompts(
        clicked=stack_prompts([(points, labels) for points, labels, _ in clicks], [b for b, _ in kinds], sizes),
        asked=prompts,
        origin=torch.tensor([m for _, _, m, _ in asked], dtype=torch.int64),
        targets=targets,
    )


NOTHING = -1
"""Label of a prompt that nothing answers."""

BARE = 6.0
"""Standard deviation in grey levels of a bare patch of a photograph. Choice: an object may be unlabelled."""


def bare_ground(sample: Sample, generator: torch.Generator) -> Tensor | None:
    """A point (1, 2) without an object within 8 px, of 16 drawn; in photographs only where the 24 px around are plain."""
    height, width = sample.image.shape[1:]
    points = torch.rand(16, 2, generator=generator) * torch.tensor([width, height])
    free = ~in_regions(points, sample.boxes + torch.tensor([-8.0, -8.0, 8.0, 8.0]))
    for x, y in points[free].tolist():
        patch = sample.image[:, max(int(y) - 12, 0) : int(y) + 12, max(int(x) - 12, 0) : int(x) + 12].float()
        if sample.source == "synthetic" or float(patch.mean(0).std()) < BARE:
            return torch.tensor([[x, y]])
    return None


PRIVATE = ("synthetic", "mosaic")
"""Sources whose kinds are those of one image alone."""


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
