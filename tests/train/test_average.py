"""`dealkit.train.average`: averages of two checkpoints, and the choice among them."""

from dataclasses import replace

import pytest
import torch

from dealkit.model.deal import build_model
from dealkit.train.average import average_weights, mean_weights

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def ends(tiny_config):
    models = [build_model(tiny_config) for _ in range(2)]
    for model, value in zip(models, (1.0, 3.0), strict=True):
        for weight in model.parameters():
            torch.nn.init.constant_(weight, value)
    return models


def test_weights_lie_between_those_of_both(ends):
    mixed = average_weights(*ends, 0.25)
    assert all(torch.all(weight == 1.5) for weight in mixed.parameters())  # 0.75 x 1 + 0.25 x 3
    assert not mixed.training and all(torch.all(weight == 1) for weight in ends[0].parameters())
    for share, model in zip((0.0, 1.0), ends, strict=True):
        same = average_weights(*ends, share).state_dict()
        assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


def test_models_of_two_configs_and_wrong_shares_are_refused(ends, tiny_config):
    other = build_model(replace(tiny_config, cross_scale=not tiny_config.cross_scale))
    with pytest.raises(ValueError, match="two models of one config"):
        average_weights(ends[0], other, 0.5)
    with pytest.raises(ValueError, match="share: expected 0 to 1, got 1.5"):
        average_weights(*ends, 1.5)


def test_of_several_each_counts_once(ends, tiny_config):
    third = build_model(tiny_config)
    for weight in third.parameters():
        torch.nn.init.constant_(weight, 8.0)
    assert all(torch.allclose(w, torch.tensor(4.0)) for w in mean_weights([*ends, third]).parameters())  # (1 + 3 + 8) / 3
    assert mean_weights(ends[:1]) is ends[0]
    with pytest.raises(ValueError, match="at least one later checkpoint"):
        mean_weights([])
