"""The training stream: sample number i of a seeded mix of procedural scenes and COCO folders, and its prompts."""

import glob
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dealkit.boxes import to_cxcywh
from dealkit.config import DataConfig
from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.scenes.plan import TWINS
from dealkit.data.scenes.scene import TRAIN_SEED, make_scene
from dealkit.data.transforms import augment, recolour
from dealkit.model.loss import Target
from dealkit.prompts import PointPrompts, simulate_clicks, stack_prompts

Samples = torch.utils.data.Dataset[Sample]


def open_sources(entries: tuple[str, ...], weights: tuple[float, ...] = ()) -> tuple[list[Samples], np.ndarray]:
    """COCO folders named by `annotations.json` or `annotations.json:image_folder`; the first part may be a glob pattern.

    Without a folder, `images` beside the file is taken. Entries are opened in order, matches of a pattern sorted. The
    `index.parquet` of a TinySet stands for the sources of its training split, balanced by domain.

    Returns:
        the sources, and the probability of drawing each: by `weights` per entry, or equal.

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
            shares.append(weight)
    return sources, np.array(shares) / max(sum(shares), 1e-9)


class TrainingStream(torch.utils.data.Dataset[Sample]):
    """Augmented crops, numbered from 0: sample i depends only on the seed and i, so a run can continue anywhere.

    Choice: sources are drawn equally often by default. They differ a hundredfold in size but are equal in what they teach.
    """

    def __init__(self, config: DataConfig, seed: int, length: int):
        self.config, self.seed, self.length = config, seed, length
        self.sources, self.shares = open_sources(config.coco, config.weights)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        config = self.config
        rng = np.random.default_rng([self.seed, index])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if not self.sources or rng.random() < config.synthetic:
            larger = 4 ** rng.random() if rng.random() < config.large_scenes else None
            size_hw, seed = (config.size, config.size), TRAIN_SEED + self.seed
            twins = draw_twins(rng) if rng.random() < config.twins else {}
            scene = make_scene(index, size_hw=size_hw, seed=seed, enlarge=larger, variety=config.variety, **twins)
            if rng.random() < config.enlarged_scenes:
                return augment(scene, size=config.size, scale=(1.0, 2.0), generator=generator)
            return replace(scene, image=recolour(scene.image, generator=generator))
        source = self.sources[rng.choice(len(self.sources), p=self.shares)]
        sample = source[int(rng.integers(len(source)))]
        return augment(sample, size=config.size, scale=(config.min_scale, config.max_scale), generator=generator)


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


def draw_prompts(samples: list[Sample], config: DataConfig, generator: torch.Generator) -> tuple[PointPrompts, list[Target]]:
    """Training prompts for a batch: up to `sets_per_image` categories of each image, clicked at random, and what each should
    find.

    One click in two cases of three, else 2 to `max_clicks` on different objects. Half of the prompts click at the centre, half
    up to a share of the half-extent beside it, itself drawn up to `config.wander`. An image without objects has no set.

    Returns:
        prompts of N sets, N targets (boxes cxcywh pixels).
    """

    def randint(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    clicks: list[tuple[Tensor, Tensor]] = []
    images: list[int] = []
    targets: list[Target] = []
    for b, sample in enumerate(samples):
        present = sample.labels[~sample.crowd].unique()
        for label in present[torch.randperm(len(present), generator=generator)][: config.sets_per_image]:
            of_kind = sample.labels == label
            boxes = sample.boxes[of_kind & ~sample.crowd]
            wanted = 1 if config.max_clicks == 1 or randint(0, 2) else randint(2, config.max_clicks)
            chosen = torch.randperm(len(boxes), generator=generator)[:wanted]
            spread = config.wander * randint(0, 1) * float(torch.rand((), generator=generator))
            points = simulate_clicks(boxes[chosen], spread=spread, generator=generator)
            clicks.append((points, torch.ones(len(points), dtype=torch.int64)))
            images.append(b)
            targets.append(Target(boxes=to_cxcywh(boxes), crowd=to_cxcywh(sample.boxes[of_kind & sample.crowd]), clicked=chosen))
    return stack_sets(clicks, images, targets)


def stack_sets(
    clicks: list[tuple[Tensor, Tensor]], images: list[int], targets: list[Target]
) -> tuple[PointPrompts, list[Target]]:
    """`stack_prompts`, and the targets with `clicked` padded to the most clicks of a set by -1."""
    prompts = stack_prompts(clicks, images)
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
