"""Small from nano: what is taken over, what imitation measures, and that a step of it comes nearer."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import changed, losses

from dealkit.cli.model import train
from dealkit.config import MODELS, DataConfig, ModelConfig
from dealkit.data.transforms import to_input
from dealkit.model.checkpoint import load_model, save_model
from dealkit.model.deal import build_model
from dealkit.train.imitate import imitate, imitation, widened
from dealkit.train.stream import TrainingStream


@pytest.fixture
def small(tiny_config):
    return replace(tiny_config, backbone="resnet18")


def test_small_differs_from_nano_in_its_backbone_only():
    assert replace(MODELS["small"], backbone="nano") == MODELS["nano"]


def test_blocks_answer_in_their_first_channels_as_those_of_the_teacher(make_tiny, small):
    teacher = make_tiny()
    model = widened(teacher, small).eval()
    x = torch.rand(1, 96, 8, 8)
    wide = torch.cat([x, torch.rand(1, 32, 8, 8)], dim=1)  # what else there is changes nothing
    with torch.no_grad():
        theirs, ours = teacher.backbone.stages[1][1](x), model.backbone.stages[1][1](wide)
        torch.testing.assert_close(ours[:, :96], theirs)
        torch.testing.assert_close(model.backbone.stages[0][1](torch.rand(1, 64, 8, 8)).shape, torch.Size([1, 64, 8, 8]))


def test_what_reads_the_maps_is_the_teachers(make_tiny, small):
    teacher = make_tiny()
    ours, theirs = widened(teacher, small).state_dict(), teacher.state_dict()
    same = [name for name in theirs if not name.startswith(("backbone.", "enhance.lateral."))]
    assert len(same) > 50 and all(torch.equal(ours[name], theirs[name]) for name in same if theirs[name].ndim)
    assert torch.equal(ours["enhance.lateral.3.weight"][:, :320], theirs["enhance.lateral.3.weight"])
    assert not ours["enhance.lateral.3.weight"][:, 320:].any()


@pytest.mark.parametrize(
    "config",
    [ModelConfig(hidden_dim=32, fine_dim=16), ModelConfig(backbone="resnet18"), ModelConfig(backbone="resnet50")],
    ids=["nano", "other width", "other backbone"],
)
def test_what_cannot_be_widened_is_refused(make_tiny, config):
    with pytest.raises(ValueError, match="widening: .*nano.*resnet18"):
        widened(make_tiny(), config)


def test_a_model_imitates_itself_without_error(make_tiny):
    model = make_tiny()
    samples = [TrainingStream(DataConfig(synthetic=1, size=64), 0, 2)[i] for i in range(2)]
    assert imitation(model, model, samples) == {"loss_backbone": 0, "loss_maps": 0}


def test_the_error_is_relative_to_the_variance_of_the_teachers_map(make_tiny):
    model = make_tiny()
    sample = TrainingStream(DataConfig(synthetic=1, size=64), 0, 1)[0]
    other = build_model(model.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.enhance.down[2][1].bias += 1  # before a ReLU; only the coarsest map moves
        goal, maps = (m.enhance(m.backbone(to_input(sample.image)[None]), None)[3] for m in (model, other))
        expected = (maps - goal).square().mean() / goal.var() / 4
        terms = imitation(other, model, [sample], bf16=False)
    assert terms["loss_backbone"] == 0 and terms["loss_maps"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_imitation_comes_nearer_and_resumes(make_tiny, small, run, tmp_path):
    save_model(make_tiny(), tmp_path / "nano.safetensors")
    run = changed(replace(run, model=small), steps=4, lr=4e-3, warmup=1)
    whole = imitate(run, tmp_path / "whole", tmp_path / "nano.safetensors")
    assert whole[-1]["loss"] < 0.9 * whole[0]["loss"]
    assert load_model(tmp_path / "whole" / "model.safetensors", expected=small)
    imitate(run, tmp_path / "parts", tmp_path / "nano.safetensors", stop_at=2)
    resumed = imitate(run, tmp_path / "parts", tmp_path / "nano.safetensors", resume=True)
    assert losses(resumed) == pytest.approx(losses(whole))


@pytest.mark.parametrize(
    "options", [{"model": "fcos"}, {"model": "small", "init": Path("init.safetensors")}], ids=["fcos", "init"]
)
def test_a_teacher_and_other_weights_exclude_each_other(options, tmp_path):
    with pytest.raises(ValueError, match="--teacher: "):
        train(tmp_path / "run", teacher=tmp_path / "nano.safetensors", **options)
    assert not (tmp_path / "run").exists()
