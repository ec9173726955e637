"""`dealkit.train.loop`: repeatable and resumable runs, errors before work is lost, averaged weights, checkpoints."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from conftest import bfloat16, changed, losses
from safetensors.torch import load_file

import dealkit.train.loop
from dealkit.config import TrainConfig, load_config
from dealkit.jobs import locked
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import build_model
from dealkit.train.deal import fit
from dealkit.train.loop import learning_rate, parameter_groups, progress, read_log, update_average

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """An uninterrupted run of six steps: its folder and log."""
    with pytest.MonkeyPatch.context() as patch:
        bfloat16(patch, faster=False)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        out = tmp_path_factory.mktemp("runs") / "whole"
        return out, fit(run, out)


def state_of(out):
    return torch.load(out / "state.pt", weights_only=True)


def test_a_run_that_was_stopped_goes_on_with_the_losses_of_one_that_was_not(run, whole, tmp_path):
    assert [line["step"] for line in fit(run, tmp_path / "run", stop_at=3)] == [1, 2, 3]
    resumed = fit(run, tmp_path / "run", resume=True)
    same = ("step", "loss", "lr")
    assert [[line[name] for name in same] for line in resumed] == [[line[name] for name in same] for line in whole[1]]
    weights, expected = (load_file(out / "model.safetensors") for out in (tmp_path / "run", whole[0]))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_finishes_the_step_and_keeps_it(run, whole, tmp_path, monkeypatch, number):
    out, update = tmp_path / "run", dealkit.train.loop.update_average

    def stops(average, model, step, decay):
        if step == 2:
            os.kill(os.getpid(), number)
        update(average, model, step, decay)

    monkeypatch.setattr(dealkit.train.loop, "update_average", stops)
    said = rf"^stopped after step 3 of 6; `python -m dealkit train --out {out} --resume` goes on$"
    every_second = changed(run, log_every=2)
    with pytest.raises(KeyboardInterrupt, match=said):
        fit(every_second, out, validate=lambda _: pytest.fail("no time for that"))
    assert state_of(out)["step"] == 3 and {f.name for f in out.iterdir()} == {f.name for f in whole[0].iterdir()}
    resumed, single = fit(every_second, out, resume=True), losses(whole[1])
    assert losses(resumed) == pytest.approx([(single[i] + single[i + 1]) / 2 for i in (0, 2, 4)], rel=1e-12)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (out, whole[0]))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_second_training_in_a_folder_is_refused_and_a_stale_lock_is_no_obstacle(run, tmp_path):
    out = tmp_path / "run"
    with locked(out), pytest.raises(ValueError, match=f"run: process {os.getpid()} works in it; expected one at a time"):
        fit(run, out)
    out.mkdir()
    (out / "lock").write_text("12345")
    fit(run, out, stop_at=1)
    assert not (out / "lock").exists()


def test_a_training_that_is_refused_leaves_nothing(run, whole, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    for options in (
        {"config": replace(run, data=replace(run.data, coco=(str(wrong),)))},
        {"config": run, "init": wrong},
        {"config": replace(run, model=replace(run.model, hidden_dim=64)), "init": whole[0] / "model.safetensors"},
    ):
        with pytest.raises(ValueError, match=r"wrong\.json|model\.safetensors"):
            fit(out=tmp_path / "deep" / "run", **options)
        assert not (tmp_path / "deep").exists()


def test_steps_after_the_last_checkpoint_are_done_again(run, whole, tmp_path):
    """A kill between checkpoints leaves a log that is ahead of the state, with a last line cut short."""
    out = tmp_path / "run"
    fit(run, out, stop_at=3)
    ahead = json.dumps(whole[1][3]) + "\n"
    (out / "log.jsonl").write_text((out / "log.jsonl").read_text() + ahead + '{"step": 5, "lo')
    history = fit(run, out, resume=True)
    assert [line["step"] for line in history] == [line["step"] for line in read_log(out)] == [1, 2, 3, 4, 5, 6]
    assert losses(history) == losses(whole[1])


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(run, whole, tmp_path):
    again, other = fit(run, tmp_path / "again", stop_at=2), fit(changed(run, seed=2), tmp_path / "other", stop_at=2)
    assert losses(again) == losses(whole[1])[:2]
    assert all(a != b for a, b in zip(losses(other), losses(again), strict=True))


def test_a_run_leaves_its_config_log_state_and_model(run, whole):
    out, history = whole
    assert {f.name for f in out.iterdir()} == {"config.json", "log.jsonl", "state.pt", "model.safetensors"}
    assert load_config(out / "config.json") == run  # so `--resume` can read it
    assert {"commit", "python", "torch", "device"} <= set(json.loads((out / "config.json").read_text())["made_by"])
    assert read_log(out) == history
    terms = {"loss_score", "loss_bbox", "loss_giou", "loss_peak", "loss_density", "loss_dense_box", "loss_denoise"}
    assert terms | {"step", "minutes", "lr", "loss", "norm", "img_per_s"} == set(history[0])
    assert all(sum(line[name] for name in terms) == pytest.approx(line["loss"], rel=1e-5) for line in history)
    assert load_model(out / "model.safetensors").config == run.model


def test_nothing_is_overwritten_without_resume_and_nothing_resumed_from_nothing(run, whole, tmp_path):
    before = (whole[0] / "log.jsonl").read_text()
    with pytest.raises(ValueError, match="whole: already holds a run"):
        fit(run, whole[0])
    assert (whole[0] / "log.jsonl").read_text() == before
    with pytest.raises(ValueError, match=r"none: holds no state.pt to resume"):
        fit(run, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_broken_state_is_named_on_one_line_and_strays_of_a_kill_go(run, whole, tmp_path):
    state = torch.load(whole[0] / "state.pt", weights_only=True)
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    for broken, said in (
        (b"no state", r"run/state.pt: not a state to resume from: .+"),
        ({k: v for k, v in state.items() if k != "average"}, r"run/state.pt: average: does not fit this run: .+"),
        (state | {"model": {}}, r"run/state.pt: model: does not fit this run: .*[Mm]issing .+"),
        (state | {"optimizer": {"state": {}, "param_groups": []}}, r"run/state.pt: optimizer: does not fit this run: .+"),
    ):
        (out / ".tmpAb1xYz").touch()
        if isinstance(broken, bytes):
            (out / "state.pt").write_bytes(broken)
        else:
            torch.save(broken, out / "state.pt")
        with pytest.raises(ValueError, match=said) as caught:
            fit(run, out, resume=True)
        assert "\n" not in str(caught.value) and not (out / ".tmpAb1xYz").exists()


def test_the_log_holds_means_over_its_interval(run, whole, tmp_path):
    history = fit(changed(run, log_every=2), tmp_path / "run", stop_at=3)
    single = losses(whole[1])
    assert [line["step"] for line in history] == [2, 3]  # the last step has a line, too
    assert losses(history) == pytest.approx([(single[0] + single[1]) / 2, single[2]])


def test_the_averaged_model_is_judged_every_so_often_and_at_the_end(run, tmp_path):
    seen = []

    def validate(model):
        seen.append((model.training, next(model.parameters()).requires_grad))
        return {"ap50": 0.5}

    history = fit(changed(run, steps=5, evaluate_every=2), tmp_path / "run", validate=validate)
    assert [line["step"] for line in history if "ap50" in line] == [2, 4, 5]
    assert seen == [(False, False)] * 3


def test_checkpoints_are_written_as_often_as_asked_for(run, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(dealkit.train.loop, "save_state", lambda *args: saved.append(args[4]))
    fit(changed(run, steps=5, checkpoint_every=2), tmp_path / "run")
    assert sorted(set(saved)) == [2, 4, 5]


def test_a_time_budget_ends_a_run_and_its_last_steps_are_logged(run, tmp_path):
    history = fit(changed(run, max_minutes=1e-9, log_every=5), tmp_path / "run")
    assert [line["step"] for line in history] == [1]
    assert state_of(tmp_path / "run")["step"] == 1


def test_data_can_be_made_in_another_process(run, whole, tmp_path):
    history = fit(replace(run, data=replace(run.data, workers=1)), tmp_path / "run", stop_at=2)
    assert losses(history) == losses(whole[1])[:2]


@pytest.mark.parametrize(
    ("step", "minutes", "budget", "expected"),
    [
        (0, 0.0, 0.0, 0.0),
        (25, 900.0, 0.0, 0.25),
        (25, 30.0, 60.0, 0.5),
        (25, 6.0, 60.0, 0.25),
        (25, 99.0, 60.0, 1.0),
        (200, 0.0, 0.0, 1.0),
    ],
)
def test_progress_is_by_steps_or_minutes_whichever_is_further(step, minutes, budget, expected):
    assert progress(step, minutes, TrainConfig(steps=100, max_minutes=budget)) == expected


@pytest.mark.parametrize(
    ("step", "done", "expected"),
    [
        (0, 0.0, 0.25),  # a quarter of the warm-up of 4 steps
        (3, 0.0, 1.0),
        (50, 0.5, 0.01 + 0.99 / 2),  # cos(pi / 2) = 0
        (99, 1.0, 0.01),
        (1, 0.5, 0.5 * (0.01 + 0.99 / 2)),  # a run that resumes late is still warmed up by its step
    ],
)
def test_the_learning_rate_warms_up_and_falls_to_a_hundredth(step, done, expected):
    assert learning_rate(step, done, TrainConfig(lr=2.0, warmup=4)) == pytest.approx(2 * expected)
    assert learning_rate(0, 0.0, TrainConfig(lr=2.0, warmup=0)) == 2.0


@pytest.mark.parametrize("backbone", ["nano", "lite0"])
def test_only_matrices_and_kernels_decay_and_a_known_backbone_learns_slowly(tiny_config, backbone):
    model = build_model(replace(tiny_config, backbone=backbone))
    groups = parameter_groups(model, TrainConfig(weight_decay=0.1, backbone_lr=0.3))
    kinds = {(slow, decays): [] for slow in ([0.3, 1.0] if backbone == "lite0" else [1.0]) for decays in (0.1, 0.0)}
    for name, p in model.named_parameters():
        if not name.startswith(
            ("backbone.net.stem", "backbone.net.blocks.0.", "backbone.net.blocks.1.", "backbone.net.blocks.2.")
        ):
            slow = backbone == "lite0" and name.startswith("backbone.")
            kinds[0.3 if slow else 1.0, 0.1 if p.ndim > 1 else 0.0].append(p)
    assert {(g["share"], g["weight_decay"]): list(map(id, g["params"])) for g in groups} == {
        kind: list(map(id, params)) for kind, params in kinds.items()
    }


def test_the_backbone_moves_by_its_share_of_a_step(run, tmp_path):
    """Adam's first step is the learning rate, whatever the gradient."""
    lite = replace(run, model=replace(run.model, backbone="lite0"))
    fit(changed(lite, lr=1e-3, warmup=0, weight_decay=0.0, backbone_lr=0.1, ema_decay=0.0), tmp_path / "run", stop_at=1)
    torch.manual_seed(run.train.seed)
    start, end = build_model(lite.model).state_dict(), state_of(tmp_path / "run")["model"]
    moved = {
        name: (end[name] - start[name]).abs().max().item()
        for name in ("backbone.net.blocks.5.project.0.weight", "to_values.0.bias")
    }
    assert list(moved.values()) == pytest.approx([1e-4, 1e-3], rel=0.1)
    assert torch.equal(end["backbone.net.stem.0.weight"], start["backbone.net.stem.0.weight"])


def test_the_average_follows_quickly_at_first_and_slowly_later():
    def norm(value, batches):
        layer = torch.nn.BatchNorm1d(1)
        layer.weight.data.fill_(value), layer.running_mean.fill_(value), layer.num_batches_tracked.fill_(batches)
        return layer

    average, model = norm(0.0, 0), norm(1.0, 7)
    update_average(average, model, 0, 0.999)  # decay (1 + 0) / (10 + 0): 0.1 x 0 + 0.9 x 1
    assert average.weight.item() == pytest.approx(0.9) and average.running_mean.item() == pytest.approx(0.9)
    assert average.num_batches_tracked == 7  # counted, not averaged
    update_average(average, model, 90, 0.8)  # 91 / 100 is more than 0.8: 0.8 x 0.9 + 0.2 x 1
    assert average.weight.item() == pytest.approx(0.92)


def test_decay_reaches_the_average(run, tmp_path):
    fit(changed(run, ema_decay=0.0), tmp_path / "run", stop_at=1)
    state = state_of(tmp_path / "run")
    assert all(torch.equal(state["average"][k], state["model"][k]) for k in state["model"])


def test_every_setting_of_the_optimizer_reaches_it(run, tmp_path):
    def after_a_step(name, **change):
        fit(changed(run, **{"lr": 1e-2, **change}), tmp_path / name, stop_at=1)
        return state_of(tmp_path / name)["model"]["embed_points.describe.0.weight"]

    plain = after_a_step("plain")
    for change in ({"lr": 1e-3}, {"weight_decay": 10.0}, {"warmup": 1}):
        assert not torch.equal(after_a_step(str(change), **change), plain), change


def test_gradients_are_clipped_after_their_norm_is_logged(run, tmp_path):
    """Adam divides by the gradients' size, so the clip shows in its moments: beta1 is 0.9."""
    history = fit(changed(run, clip=1e-3), tmp_path / "run", stop_at=1)
    moments = torch.stack([s["exp_avg"].norm() for s in state_of(tmp_path / "run")["optimizer"]["state"].values()]).norm()
    assert history[0]["norm"] > 1e-3 and moments.item() == pytest.approx(0.1 * 1e-3, rel=1e-2)
