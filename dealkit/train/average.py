"""Averages of checkpoints of one training: `share` of the later weights, the rest of the earlier ones.

Source: weight averaging after fine-tuning, arXiv 2109.01903 (WiSE-FT): between two checkpoints of one training the loss is flat,
and in the middle a model keeps more of what it knew on images unlike the last ones. Several runs that went on from the same
weights stand for one by their mean: model soups, arXiv 2203.05482.
"""

from collections.abc import Sequence

import torch

from dealkit.model.deal import DEAL


def average_weights(earlier: DEAL, later: DEAL, share: float) -> DEAL:
    """A new model with weights (1 - share) x earlier + share x later, `share` 0 to 1, of models of one config."""
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected 0 to 1, got {share}")
    if earlier.config != later.config:
        raise ValueError(f"averaging needs two models of one config, got {earlier.config} and {later.config}")
    mixed, ends = DEAL(later.config), (earlier.state_dict(), later.state_dict())
    weights = {k: a.lerp(ends[1][k], share) if a.is_floating_point() else ends[1][k] for k, a in ends[0].items()}
    mixed.load_state_dict(weights)
    return mixed.to(memory_format=torch.channels_last).eval()


def mean_weights(models: Sequence[DEAL]) -> DEAL:
    """The mean of the weights of one or more models of one config, each counted once."""
    if not models:
        raise ValueError("averaging needs at least one later checkpoint, got none")
    mixed = models[0]
    for n, model in enumerate(models[1:], 2):
        mixed = average_weights(mixed, model, 1 / n)
    return mixed
