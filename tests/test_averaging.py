"""`dealkit.averaging`: averages of two checkpoints, and the choice among them."""

from dataclasses import replace

import pytest
import torch

import dealkit.averaging
from dealkit.averaging import average, choose_average
from dealkit.model.deal import build_model
from dealkit.train import load_model, save_model

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def ends(tiny_config):
    models = [build_model(tiny_config) for _ in range(2)]
    for model, value in zip(models, (1.0, 3.0), strict=True):
        for weight in model.parameters():
            torch.nn.init.constant_(weight, value)
    return models


def test_weights_lie_between_those_of_both(ends):
    mixed = average(*ends, 0.25)
    assert all(torch.all(weight == 1.5) for weight in mixed.parameters())  # 0.75 x 1 + 0.25 x 3
    assert not mixed.training and all(torch.all(weight == 1) for weight in ends[0].parameters())
    for share, model in zip((0.0, 1.0), ends, strict=True):
        same = average(*ends, share).state_dict()
        assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


def test_models_of_two_configs_and_wrong_shares_are_refused(ends, tiny_config):
    other = build_model(replace(tiny_config, cross_scale=not tiny_config.cross_scale))
    with pytest.raises(ValueError, match="two models of one config"):
        average(ends[0], other, 0.5)
    with pytest.raises(ValueError, match="share: expected 0 to 1, got 1.5"):
        average(*ends, 1.5)


def test_the_best_on_held_out_scenes_is_written(ends, tmp_path, monkeypatch):
    def score(model, scenes, size, seed):
        value = next(model.parameters()).flatten()[0].item()  # 1, 2 or 3: the middle is best
        row = dict.fromkeys(("ap25", "ap50", "ap75", "ap", "recall50", *(f"ap50_{b}" for b in ("vt", "t", "s", "m"))), 0.1)
        row["ap50"] = 1 - abs(value - 2) / 2
        return {"all": row, "clicked_ignored": None, "hit": 0.5, "hit_shown": 0.5, "count": {"mae": 1.0}}

    monkeypatch.setattr(dealkit.averaging, "evaluate_on_scenes", score)
    for name, model in zip(("a", "b"), ends, strict=True):
        save_model(model, tmp_path / name)
    made = choose_average(tmp_path / "a", tmp_path / "b", tmp_path / "best", shares=(0.0, 0.5, 1.0), scenes=3)
    assert made["best"] == 0.5 and [row["ap50"] for row in made["shares"]] == [0.5, 1.0, 0.5]
    assert all(torch.all(weight == 2) for weight in load_model(tmp_path / "best").parameters())
