"""`dealkit.ablate`: cells, resuming and skipping."""

from dataclasses import replace

import pytest

import dealkit.ablate
import dealkit.train
from dealkit.ablate import GRIDS, base_run, changed, run_cell, sweep
from dealkit.config import DataConfig, PromptConfig, RunConfig, TrainConfig
from dealkit.prompts import read_json
from dealkit.train import fit

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No TensorBoard; scores that count the calls instead of an evaluation."""
    calls = []

    def score(model, count, size, seed):
        calls.append((count, size, seed))
        share = {"ap25": 0.5, "ap50": len(calls) / 100, "ap75": 0.1, "ap": 0.1, "recall50": 0.3}
        share |= {f"ap50_{size_bin}": None for size_bin in ("vt", "t", "s", "m")}
        return {"all": share, "clicked_ignored": None, "hit": 0.5, "hit_shown": 0.5, "count": {"mae": 1.0}}

    monkeypatch.setattr(dealkit.train, "tensorboard", lambda out: None)
    monkeypatch.setattr(dealkit.ablate, "evaluate_on_scenes", score)
    return calls


@pytest.fixture
def base(tiny_config):
    train = TrainConfig(steps=2, batch_size=2, warmup=1, log_every=1, evaluate_every=1)
    return RunConfig(model=tiny_config, data=DataConfig(size=64, workers=0), train=train, prompt=PromptConfig(cycles=2))


@pytest.mark.parametrize("grid", list(GRIDS))
def test_every_cell_changes_the_base_in_its_own_way(base, grid):
    runs = [changed(base, changes, 1) for changes in GRIDS[grid].values()]
    assert runs[0] == changed(base, {}, 1) and all(run.train.seed == 1 for run in runs)
    assert len(set(map(str, runs))) == len(runs)


def test_a_cell_leaves_its_results_and_is_not_run_again(base, tmp_path, quick):
    results = run_cell(base, tmp_path / "cell", scenes=7)
    assert [line["step"] for line in results["curve"]] == [1, 2] and results["metrics"]["ap50"] == 0.03
    assert (7, 64) in [call[:2] for call in quick] and len({seed for *_, seed in quick}) == 1
    done = len(quick)
    assert run_cell(base, tmp_path / "cell", scenes=7) == results and len(quick) == done
    with pytest.raises(ValueError, match=r"results.json: made with another config"):
        run_cell(replace(base, prompt=PromptConfig(cycles=1)), tmp_path / "cell", scenes=7)


def test_a_cell_that_was_cut_off_goes_on(base, tmp_path):
    whole = fit(base, tmp_path / "whole")
    fit(base, tmp_path / "cell", stop_at=1)
    run_cell(base, tmp_path / "cell", scenes=7)
    log = dealkit.train.read_log(tmp_path / "cell")
    assert [line["loss"] for line in log if "loss" in line] == [line["loss"] for line in whole]


def test_a_sweep_runs_seed_by_seed_and_writes_after_every_cell(base, tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "two", {"full": {}, "one cycle": {"prompt": {"cycles": 1}}})
    summary = sweep(base, "two", tmp_path, seeds=2, results=tmp_path / "results.json")
    assert [(row["cell"], row["seed"]) for row in summary["rows"]] == [(c, s) for s in (0, 1) for c in ("full", "one cycle")]
    assert read_json(tmp_path / "results.json")["rows"] == summary["rows"]
    assert {folder.name for folder in (tmp_path / "two").iterdir()} == {"full-0", "full-1", "one-cycle-0", "one-cycle-1"}
    with pytest.raises(ValueError, match="grid: expected one of components, strategies, cycles, two, got 'three'"):
        sweep(base, "three", tmp_path)


def test_the_base_run_is_evaluated_four_times_and_checked(tiny_config):
    base = base_run(steps=600, size=128, coco=["a.json"])
    assert (base.train.warmup, base.train.evaluate_every, base.prompt.cycles, base.data.coco) == (100, 150, 2, ("a.json",))
    assert base_run(steps=2, size=64).train.evaluate_every == 1
    with pytest.raises(ValueError, match="steps: expected at least 1"):
        base_run(steps=0, size=64)
