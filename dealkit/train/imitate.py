"""A DEAL on a torchvision ResNet-18 that starts from a trained `nano`: it takes over what fits, then imitates the other's maps.

Source: widening after Net2Net (arXiv 1511.05641), imitation of features after FitNets (arXiv 1412.6550). Choice: a map gives
thousands of targets where an image gives a few boxes, so that half an hour of one core stands for most of the hours that `nano`
took from random weights.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dealkit.config import ModelConfig, RunConfig
from dealkit.data.coco import Sample
from dealkit.data.transforms import to_input
from dealkit.device import autocast, default_device
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL, build_model
from dealkit.train.loop import training_loop

RENAMED = {
    "backbone.stages.0.2.": "backbone.stages.0.1.0.",
    "backbone.stages.0.3.": "backbone.stages.0.1.1.",
    ".downsample.1.": ".downsample.0.",
    ".downsample.2.": ".downsample.1.",
}
"""Parts of names of a `nano` and what they are on a ResNet-18; the rest is called the same, but for the stem."""

STEM = ("backbone.stages.0.0.", "backbone.stages.0.1.")


@torch.no_grad()
def widened(teacher: DEAL, config: ModelConfig) -> DEAL:
    """A model of `config` whose first channels are the teacher's; what these read from the others starts at zero.

    Only the stem starts at random, since the two are built differently; and the shortcuts of a ResNet-18 skip pixels where the
    teacher's take averages. So the model does not yet find what the teacher finds.

    Raises:
        ValueError: not a teacher on `nano` and a `config` on `resnet18` that are otherwise the same.

    >>> small = ModelConfig(backbone="resnet18", hidden_dim=32, fine_dim=16)
    >>> teacher = DEAL(replace(small, backbone="nano"))
    >>> old, new = (m.backbone.stages[1][1].conv1.weight for m in (teacher, widened(teacher, small)))
    >>> new.shape, bool((new[:96, :96] == old).all()), bool(new[:96, 96:].any())
    (torch.Size([128, 128, 3, 3]), True, False)
    """
    if config.backbone != "resnet18" or replace(config, backbone="nano", pretrained=False) != teacher.config:
        raise ValueError(f"widening: expected a teacher on nano and a like model on resnet18, got {teacher.config} and {config}")
    model = build_model(config)
    state = model.state_dict()
    for name, old in teacher.state_dict().items():
        if name.startswith(STEM):
            continue
        for narrow, wide in RENAMED.items():
            name = name.replace(narrow, wide)
        new = state[name]
        if old.ndim > 1:
            new[: len(old), old.shape[1] :] = 0
            new[: len(old), : old.shape[1]] = old
        elif old.ndim:
            new[: len(old)] = old
    return model


def imitation(model: DEAL, teacher: DEAL, samples: list[Sample], bf16: bool = True) -> dict[str, Tensor]:
    """How far the model's maps are from the teacher's: squared error over the variance, means over four maps each.

    Returns:
        `loss_backbone` of the channels that the teacher's backbone has, `loss_maps` of what detection reads; float32 scalars.
    """
    device = next(model.parameters()).device
    images = torch.stack([to_input(s.image.to(device)) for s in samples]).contiguous(memory_format=torch.channels_last)
    with autocast(device, bf16):
        with torch.no_grad():
            goal = teacher.backbone(images)
            goal_maps = teacher.enhance(goal, None)
        maps = model.backbone(images)
        enhanced = model.enhance(maps, None)

    def error(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        pairs = [(a[:, : b.shape[1]].float(), b.float()) for a, b in zip(ours, theirs, strict=True)]
        return torch.stack([(a - b).square().mean() / b.var() for a, b in pairs]).mean()

    return {"loss_backbone": error(maps, goal), "loss_maps": error(enhanced, goal_maps)}


def imitate(
    config: RunConfig,
    out: Path,
    teacher: Path,
    *,
    resume: bool = False,
    validate: Callable[[DEAL], dict[str, float]] | None = None,
    stop_at: int | None = None,
) -> list[dict[str, float]]:
    """Train a model of `config`, widened from the teacher's checkpoint, to the teacher's maps on the images of the run, without
    their labels; returns its log. Other arguments and errors: `dealkit.train.loop.training_loop`."""
    guide = load_model(teacher).to(default_device()).requires_grad_(False)

    def loss_terms(model: DEAL, samples: list[Sample], _: torch.Generator, __: DEAL, ___: float) -> dict[str, Tensor]:
        return imitation(model, guide, samples, config.train.bf16)

    def make_model() -> DEAL:
        return widened(guide, config.model)

    return training_loop(config, out, make_model, loss_terms, resume=resume, validate=validate, stop_at=stop_at)
