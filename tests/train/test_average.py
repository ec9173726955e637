"""`dealkit.train.average`: weights between those of two checkpoints, and the mean of several."""

from dataclasses import replace

import pytest
import torch

from dealkit.model.deal import build_model
from dealkit.train.average import average_weights, mean_weights


def test_weights_lie_between_those_of_both(make_constant):
    ends = make_constant(1.0), make_constant(3.0)
    mixed = average_weights(*ends, 0.25)
    assert all(torch.all(weight == 1.5) for weight in mixed.parameters())  # 0.75 x 1 + 0.25 x 3
    assert not mixed.training and all(torch.all(weight == 1) for weight in ends[0].parameters())
    for share, model in zip((0.0, 1.0), ends, strict=True):
        same = average_weights(*ends, share).state_dict()
        assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


def test_models_of_two_configs_and_wrong_shares_are_refused(tiny_model):
    other = build_model(replace(tiny_model.config, cross_scale=False))
    with pytest.raises(ValueError, match="two models of one config"):
        average_weights(tiny_model, other, 0.5)
    with pytest.raises(ValueError, match="share: .* got 1.5"):
        average_weights(tiny_model, tiny_model, 1.5)


def test_of_several_each_counts_once(make_constant):
    models = [make_constant(value) for value in (1.0, 3.0, 8.0)]
    assert all(torch.allclose(w, torch.tensor(4.0)) for w in mean_weights(models).parameters())  # (1 + 3 + 8) / 3
    assert mean_weights(models[:1]) is models[0]
    with pytest.raises(ValueError, match="got none"):
        mean_weights([])
