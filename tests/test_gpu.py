"""On a GPU: the losses, gradients and detections of the CPU, and runs that train, resume and load anywhere."""

from dataclasses import replace

import pytest
import torch
from conftest import bfloat16

from dealkit.baselines.methods import train_with
from dealkit.config import (
    DataConfig,
    DetectorConfig,
    DetectorRun,
    MethodConfig,
    ModelConfig,
    PromptConfig,
    RunConfig,
    TrainConfig,
)
from dealkit.data.scenes.scene import make_scene
from dealkit.model.checkpoint import load_model
from dealkit.predict.predictor import Predictor
from dealkit.train.deal import fit, loss_of_batch
from dealkit.train.stream import draw_prompts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DATA = DataConfig(size=64, workers=0)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """float32 as exact as the CPU's."""
    bfloat16(monkeypatch, faster=False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def schedule(**changes):
    return TrainConfig(steps=4, batch_size=2, warmup=1, log_every=1, **changes)


def finite(history):
    return [torch.isfinite(torch.tensor(line["loss"])).item() for line in history] == [True] * 4


def test_losses_and_gradients_are_those_of_the_cpu(make_tiny, tiny_config):
    run = RunConfig(model=tiny_config, data=DATA, prompt=PromptConfig(cycles=2))
    samples = [make_scene(i, size_hw=(64, 64), object_size=12, num_objects=3) for i in (0, 1)]
    terms, norms = {}, {}
    for device in ("cpu", "cuda"):
        model = make_tiny().to(device).train()
        generator = torch.Generator().manual_seed(0)
        losses = loss_of_batch(model, samples, draw_prompts(samples, DATA, generator), run, generator)
        sum(losses.values()).backward()
        terms[device] = {name: value.item() for name, value in losses.items()}
        norms[device] = [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
    assert terms["cuda"] == pytest.approx(terms["cpu"], rel=1e-3, abs=1e-5)
    assert norms["cuda"] == pytest.approx(norms["cpu"], rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_trains_resumes_and_loads_on_the_cpu(tiny_config, tmp_path, workers):
    data = replace(DATA, workers=workers)
    run = RunConfig(model=tiny_config, data=data, train=schedule(), prompt=PromptConfig(cycles=2))
    fit(run, tmp_path / "run", stop_at=2)
    assert finite(fit(run, tmp_path / "run", resume=True))
    assert next(load_model(tmp_path / "run" / "model.safetensors").parameters()).device.type == "cpu"


def test_a_run_in_bfloat16(tiny_config, tmp_path, monkeypatch):
    bfloat16(monkeypatch, faster=True)
    assert finite(fit(RunConfig(model=tiny_config, data=DATA, train=schedule(), prompt=PromptConfig(cycles=2)), tmp_path / "run"))


@pytest.mark.parametrize("detector", ["fcos", "retinanet", "faster_rcnn", "rtdetr"])
def test_detectors_train(tmp_path, detector):
    config = DetectorConfig(detector=detector, backbone="pico", hidden_dim=32)
    run = DetectorRun(detector=config, data=DATA, train=schedule())
    assert finite(train_with(run, tmp_path / "run"))


def test_a_method_for_incomplete_labels_trains(tmp_path):
    config = DetectorConfig(detector="fcos", backbone="pico", hidden_dim=32)
    run = DetectorRun(detector=config, data=DATA, train=schedule(), method=MethodConfig(method="mean_teacher"))
    assert finite(train_with(run, tmp_path / "run"))


def test_a_click_finds_what_it_finds_on_the_cpu(make_tiny):
    model, image = make_tiny(config=ModelConfig(hidden_dim=32, fine_dim=16)), make_scene(3, size_hw=(96, 128)).image
    found = []
    for device in ("cpu", "cuda"):
        predictor = Predictor(model.to(device), threshold=0.0, device=device)
        predictor.set_image(image)
        found.append(predictor.predict([[40, 30], [70, 60]], [1, 0]))
    assert len(found[0]) and len(found[0]) == len(found[1])
    torch.testing.assert_close(found[1].scores.cpu(), found[0].scores, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1].boxes.cpu(), found[0].boxes, atol=0.05, rtol=0)
