"""`dealkit.studies.ablation`: cells, resuming and skipping."""

import inspect
from dataclasses import replace

import pytest
import yaml

import dealkit.studies.ablation
import dealkit.train.loop
from dealkit.config import MODELS, DataConfig, PromptConfig, RunConfig, TrainConfig
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.studies.ablation import GRIDS, ablation_run, changed, run_cell, run_grid
from dealkit.train.deal import fit

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

    monkeypatch.setattr(dealkit.train.loop, "tensorboard", lambda out: None)
    monkeypatch.setattr(dealkit.studies.ablation, "evaluate_on_scenes", score)
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
    log = dealkit.train.loop.read_log(tmp_path / "cell")
    assert [line["loss"] for line in log if "loss" in line] == [line["loss"] for line in whole]


def test_a_sweep_runs_seed_by_seed_and_writes_after_every_cell(base, tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "two", {"full": {}, "one cycle": {"prompt": {"cycles": 1}}})
    summary = run_grid(base, "two", tmp_path, seeds=2, results=tmp_path / "results.json")
    assert [(row["cell"], row["seed"]) for row in summary["rows"]] == [(c, s) for s in (0, 1) for c in ("full", "one cycle")]
    assert read_json(tmp_path / "results.json")["rows"] == summary["rows"]
    folders = [folder for folder in tmp_path.iterdir() if folder.is_dir()]
    assert len(folders) == 4
    monkeypatch.setitem(GRIDS, "one", {"one": {"prompt": {"cycles": 1}}})
    shared = run_grid(base, "one", tmp_path, seeds=2)  # the same runs under another name are not run again
    assert [row["metrics"] for row in shared["rows"]] == [r["metrics"] for r in summary["rows"] if r["cell"] == "one cycle"]
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 4
    with pytest.raises(ValueError, match="grid: expected one of components, additions, .*, scales, two, one, got 'three'"):
        run_grid(base, "three", tmp_path)


def test_a_sweep_takes_the_cells_its_results_hold(base, tmp_path, monkeypatch, quick):
    monkeypatch.setitem(GRIDS, "two", {"full": {}, "one cycle": {"prompt": {"cycles": 1}}})
    file = tmp_path / "results.json"
    first = run_grid(base, "two", tmp_path / "runs", seeds=1, results=file)
    trained = len(quick)
    again = run_grid(base, "two", tmp_path / "other", seeds=1, results=file)
    assert again["rows"] == first["rows"] and len(quick) == trained and not (tmp_path / "other").exists()
    run_grid(replace(base, prompt=PromptConfig(cycles=3)), "two", tmp_path / "third", seeds=1, results=file)
    assert len(list((tmp_path / "third").iterdir())) == 1  # only the cell whose config is another one


def test_cells_go_on_from_one_training_of_their_seed(base, tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "two", {"full": {}, "one cycle": {"prompt": {"cycles": 1}}})
    starts = []
    whole = dealkit.studies.ablation.fit
    monkeypatch.setattr(
        dealkit.studies.ablation, "fit", lambda run, out, **kw: starts.append((run, kw["init"])) or whole(run, out, **kw)
    )
    rows = run_grid(base, "two", tmp_path, seeds=2, start_steps=1)["rows"]
    assert [(run.train.steps, run.prompt.cycles) for run, _ in starts] == 2 * [(1, 1), (2, 2), (2, 1)]
    assert [init is None for _, init in starts] == 2 * [True, False, False]
    assert starts[1][1] == starts[2][1] != starts[4][1] and len(rows) == 4
    assert starts[0][0].train.seed == 1000  # not the data that its cells see


def test_the_base_run_is_evaluated_four_times_and_checked(tiny_config):
    base = ablation_run(steps=600, size=128, coco=["a.json"])
    assert (base.train.warmup, base.train.evaluate_every, base.prompt.cycles, base.data.coco) == (100, 150, 2, ("a.json",))
    assert ablation_run(steps=2, size=64).train.evaluate_every == 1
    with pytest.raises(ValueError, match="steps: expected at least 1"):
        ablation_run(steps=0, size=64)


def test_the_notebooks_full_run_is_the_published_one():
    values = yaml.safe_load((PROJECT_ROOT / "notebooks" / "params" / "03_pgcpp_ablation_full.yml").read_text())
    base = ablation_run(steps=values["steps"], size=values["size"])
    chosen = {"batch_size": values["batch_size"], "lr": values["learning_rate"], "ema_decay": values["ema_decay"]}
    assert replace(base, model=MODELS[values["model"]], train=replace(base.train, **chosen)) == base
    assert values["eval_scenes"] == inspect.signature(run_grid).parameters["scenes"].default
    assert values["grids"] == list(GRIDS)[:4]
