"""`dealkit.train.deal`: the loss of a batch, its cycles and precision, and what a run starts from."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import ALIKE, bfloat16, changed, losses, seeded
from safetensors.torch import load_file

import dealkit.train.deal
from dealkit.config import PromptConfig, TrainConfig
from dealkit.data.scenes.scene import make_scene
from dealkit.model.checkpoint import save_model
from dealkit.model.deal import build_model
from dealkit.model.queries import EXTENT
from dealkit.train.deal import fit, loss_of_batch
from dealkit.train.loop import parameter_groups
from dealkit.train.stream import draw_prompts

pytestmark = pytest.mark.usefixtures("float32_cpu")


def batch(run, seed=0):
    """Two scenes of a few objects, with their prompts."""
    samples = [make_scene(i, size_hw=(64, 64), object_size=12, num_objects=3) for i in (0, 1)]
    return samples, draw_prompts(samples, replace(run.data, **ALIKE), seeded(seed))


def test_a_toy_batch_can_be_learnt_by_heart(run):
    torch.manual_seed(0)
    model = build_model(replace(run.model, backbone="nano")).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, TrainConfig(weight_decay=0.0)), lr=2e-3)
    samples, drawn = batch(run)
    seen = []
    for _ in range(60):
        terms = loss_of_batch(model, samples, drawn, run, seeded())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        seen.append({k: v.item() for k, v in terms.items()})
    # without the score, whose floor rises as boxes improve: its target is their IoU
    first, last = ({k: v for k, v in terms.items() if k != "loss_score"} for terms in (seen[0], seen[-1]))
    assert sum(last.values()) < 0.25 * sum(first.values()), (first, last)
    assert all(last[k] < 0.5 * first[k] for k in ("loss_bbox", "loss_giou", "loss_peak", "loss_dense_box")), (first, last)


def test_cycles_of_prompts_train_and_resume_like_one(run, tmp_path):
    twice = changed(replace(run, prompt=PromptConfig(cycles=2)), steps=2)
    whole = fit(twice, tmp_path / "whole")
    fit(twice, tmp_path / "parts", stop_at=1)
    assert losses(fit(twice, tmp_path / "parts", resume=True)) == losses(whole)
    once = fit(replace(twice, prompt=PromptConfig()), tmp_path / "once", stop_at=1)
    assert losses(once) != losses(whole)[:1] and set(once[0]) == set(whole[0])


def test_a_second_cycle_costs_the_mean_of_both(run, monkeypatch):
    """With the same prompts in both cycles, the loss of two cycles is that of one."""
    monkeypatch.setattr(dealkit.train.deal, "next_prompts", lambda output, prompts, targets, *_: (prompts, targets))
    torch.manual_seed(0)
    model, (samples, drawn) = build_model(run.model).eval(), batch(run)
    with torch.no_grad():
        once, twice = (
            loss_of_batch(model, samples, drawn, replace(run, prompt=PromptConfig(cycles=c)), torch.Generator()) for c in (1, 2)
        )
    assert {k: v.item() for k, v in twice.items()} == pytest.approx({k: v.item() for k, v in once.items()}, rel=1e-5)


def test_a_drawn_size_is_told_in_every_cycle(run, make_tiny, monkeypatch):
    """The objects to find keep the factor of the drawn box; a later click alone would not tell it."""
    model, told = make_tiny(), []
    samples = [make_scene(i, size_hw=(64, 64), object_size=12, num_objects=3, num_categories=1) for i in (0, 1)]
    drawn = draw_prompts(samples, replace(run.data, **ALIKE | {"drawn": 1.0}), seeded())
    detect = model.detect
    monkeypatch.setattr(model, "detect", lambda *args, **more: told.append(more["embedding"]) or detect(*args, **more))
    with torch.no_grad():
        loss_of_batch(model, samples, drawn, replace(run, prompt=PromptConfig(cycles=2)), seeded())
    first, second = (embedding[:, 0] for embedding in told)
    assert (first[:, -3] == 1).all() and torch.equal(first[:, -EXTENT:], second[:, -EXTENT:])
    assert (first != second)[:, :-EXTENT].any(1).all()  # another object is clicked


def test_bfloat16_changes_the_forward_pass_a_little_and_the_losses_stay_float32(run, make_tiny, monkeypatch):
    model, (samples, drawn) = make_tiny(), batch(run)
    terms = []
    for faster, wanted in ((False, True), (True, True), (True, False)):
        bfloat16(monkeypatch, faster=faster)
        with torch.no_grad():
            terms.append(loss_of_batch(model, samples, drawn, changed(run, bf16=wanted), seeded()))
    plain, short, off = terms
    assert all(v.dtype == torch.float32 for v in short.values())
    total, of_short = sum(plain.values()).item(), sum(short.values()).item()
    assert of_short != total and of_short == pytest.approx(total, rel=0.1)
    assert sum(off.values()).item() == total


def test_a_run_starts_from_the_weights_of_a_checkpoint(run, make_tiny, tmp_path):
    save_model(make_tiny(5), tmp_path / "init.safetensors")
    fit(changed(run, lr=1e-9), tmp_path / "run", init=tmp_path / "init.safetensors", stop_at=1)
    start, end = (load_file(tmp_path / name) for name in ("init.safetensors", "run/model.safetensors"))
    assert all(torch.allclose(start[k], end[k], atol=1e-6) for k in start if "running" not in k and "num_batches" not in k)
    other = replace(run, model=replace(run.model, decoder_layers=1))
    with pytest.raises(ValueError, match=r"init.safetensors: .*decoder_layers=2.*decoder_layers=1"):
        fit(other, tmp_path / "other", init=tmp_path / "init.safetensors")


def test_batches_without_objects_are_passed_over(make_coco, run, tmp_path):
    file = make_coco("bare", [[], []])
    bare = replace(run, data=replace(run.data, coco=(str(file),), synthetic=0.0, background=0.0))
    assert losses(fit(changed(bare, steps=3), tmp_path / "run")) == []
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 3


@pytest.mark.parametrize("part", ["activate.heads.bias", "decoder.layers.1.box.2.bias", "backbone.stages.0.0.0.weight"])
def test_weights_that_are_not_numbers_end_in_a_named_loss(run, make_tiny, tmp_path, monkeypatch, part):
    model = make_tiny()
    with torch.no_grad():
        model.get_parameter(part).fill_(math.nan)
    monkeypatch.setattr("dealkit.train.deal.build_model", lambda _: model)
    with pytest.raises(FloatingPointError, match=r"loss_\w+ is nan at step 0, images \[\('synthetic', \d+\), "):
        fit(run, tmp_path / "run")
