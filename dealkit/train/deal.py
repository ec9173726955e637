"""Training a DEAL: the loss of a batch over the cycles of PG-CPP, and `fit`.

`B` images, `N` prompt sets.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dealkit.config import RunConfig
from dealkit.data.coco import Sample
from dealkit.data.transforms import to_input
from dealkit.device import autocast
from dealkit.model.checkpoint import load_model, take_over
from dealkit.model.deal import DEAL, build_model
from dealkit.model.loss import criterion, total_weight
from dealkit.model.queries import EXTENT
from dealkit.train import ranks
from dealkit.train.loop import training_loop
from dealkit.train.pgcpp import next_prompts
from dealkit.train.stream import TrainingPrompts, draw_prompts, noisy_boxes


def loss_of_batch(
    model: DEAL,
    samples: list[Sample],
    drawn: TrainingPrompts,
    config: RunConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Loss terms of one batch; crops of equal size. Forward in autocast, losses in float32, means over the cycles of PG-CPP.

    `generator` draws the noise of the boxes to correct (first cycle only) and the clicks of later cycles. In several processes
    the terms are those of this one's part of the batch (`dealkit.train.ranks`); over all they add up to the loss.
    """
    device, clicked, prompts, targets = next(model.parameters()).device, drawn.clicked, drawn.asked, drawn.targets
    noise, weight, several = noisy_boxes(targets, generator) if config.loss.denoise else (), 1.0, ranks.count() > 1
    if several:
        here, sets, rows = ranks.own_part(drawn, len(samples))
        samples, targets, noise = [samples[b] for b in here], [targets[n] for n in rows], [t[rows] for t in noise]
        clicked, prompts = ranks.pick(clicked, sets, here), ranks.pick(prompts, rows, here)
        weight = total_weight(targets) / total_weight(drawn.targets)
        # later clicks depend on what this process finds: the source that all draw from must not
        generator = generator.clone_state()
    images = torch.stack([s.image for s in samples]).to(device)
    images = torch.stack([to_input(image) for image in images])
    counts = torch.tensor([float(len(t.boxes)) for t in targets], device=device)
    noisy, origin = (t.to(device) for t in noise) if noise else (None, None)
    with autocast(device, config.train.bf16):
        features = model.encode(images)
        embedding = model.embed(features, clicked.to(device))
        if several:
            embedding = ranks.all_rows(embedding, sets, len(drawn.clicked))
        embedding = embedding[(drawn.origin[rows] if several else drawn.origin).to(device)]
    terms: dict[str, Tensor] = {}
    for cycle in range(config.prompt.cycles):
        with autocast(device, config.train.bf16):
            output = model.detect(features, prompts.to(device), at_least=counts, noisy=noisy, embedding=embedding)
        for name, value in criterion(output, targets, config.loss, origin).items():
            share = weight * (1 if name == "loss_denoise" else 1 / config.prompt.cycles)
            terms[name] = terms.get(name, 0.0) + share * value
        if cycle + 1 < config.prompt.cycles:
            prompts, targets = next_prompts(output, prompts, targets, config.prompt, images.shape[2:], generator)
            noisy = origin = None
            clicked = (prompts.labels == 1).any(1)[:, None, None].to(device)
            with autocast(device, config.train.bf16):  # a prompt from another image stays until this one is clicked
                now = model.embed(features, prompts.to(device))
            # and the size that was drawn stays, for the targets keep the factor of that box
            now = torch.cat([now[..., :-EXTENT], embedding[..., -EXTENT:]], dim=-1)
            embedding = torch.where(clicked, now, embedding)
    return terms


def fit(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    partly: bool = False,
    validate: Callable[[DEAL], dict[str, float]] | None = None,
    stop_at: int | None = None,
) -> list[dict[str, float]]:
    """Train a DEAL; returns its log, one dict per line of `log.jsonl`. Other arguments and errors: `training_loop`.

    Args:
        config: the run.
        init: a checkpoint to start the weights from. partly: it may have another config, see `take_over`.
    """

    def make_model() -> DEAL:
        if init and not partly:
            return load_model(init, expected=config.model)
        model = build_model(config.model)
        return take_over(model, init) if init else model

    def loss_terms(model: DEAL, samples: list[Sample], generator: torch.Generator, _: DEAL, __: float) -> dict[str, Tensor]:
        drawn = draw_prompts(samples, config.data, generator)
        return loss_of_batch(model, samples, drawn, config, generator) if ranks.every_rank_has_some(drawn) else {}

    return training_loop(config, out, make_model, loss_terms, resume=resume, validate=validate, stop_at=stop_at)
