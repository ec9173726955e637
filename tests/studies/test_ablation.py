"""`dealkit.studies.ablation`: cells, rows, resuming and skipping."""

from dataclasses import replace

import pytest
import yaml

import dealkit.studies.ablation
import dealkit.train.loop
from dealkit.config import MODELS, DataConfig, PromptConfig, RunConfig, TrainConfig, as_json
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.studies.ablation import GRIDS, ablation_results, ablation_run, changed, rows_of_cell
from dealkit.studies.clicks import KINDS, OFFSETS
from dealkit.train.deal import fit

pytestmark = pytest.mark.usefixtures("float32_cpu")
TWO = {"full": {}, "one cycle": {"prompt": {"cycles": 1}}}


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
    monkeypatch.setitem(GRIDS, "two", TWO)
    return calls


@pytest.fixture
def base(tiny_config):
    train = TrainConfig(steps=2, batch_size=2, warmup=1, log_every=1, evaluate_every=1)
    return RunConfig(model=tiny_config, data=DataConfig(size=64, workers=0), train=train, prompt=PromptConfig(cycles=2))


def folders(path):
    return sorted(folder for folder in path.glob("*") if folder.is_dir())


@pytest.mark.parametrize("grid", list(GRIDS))
def test_every_cell_changes_the_base_in_its_own_way(base, grid):
    runs = [changed(base, changes, 1) for changes in GRIDS[grid].values()]
    assert runs[0] == changed(base, {}, 1) and all(run.train.seed == 1 for run in runs)
    assert len(set(map(str, runs))) == len(runs)


def test_a_cell_has_a_row_per_evaluation_and_is_not_trained_again(base, tmp_path, quick):
    rows = rows_of_cell(base, tmp_path / "cell", scenes=7)
    assert [(row["step"], row["val_ap50"], row.get("ap50")) for row in rows] == [(1, 0.01, None), (2, 0.02, 0.03)]
    assert rows[1]["minutes"] > 0 and set(quick) == {(7, 64, quick[0][2])}
    again = rows_of_cell(base, tmp_path / "cell", scenes=7)
    assert [row["val_ap50"] for row in again] == [0.01, 0.02] and len(quick) == 4  # scored once more, trained once
    with pytest.raises(ValueError, match="training.json: .* another config"):
        rows_of_cell(replace(base, prompt=PromptConfig(cycles=1)), tmp_path / "cell", scenes=7)


def test_a_cell_that_was_cut_off_goes_on(base, tmp_path):
    whole = fit(base, tmp_path / "whole")
    fit(base, tmp_path / "cell", stop_at=1)
    rows_of_cell(base, tmp_path / "cell", scenes=7)
    log = dealkit.train.loop.read_log(tmp_path / "cell")
    assert [line["loss"] for line in log if "loss" in line] == [line["loss"] for line in whole]


def test_a_grid_runs_seed_by_seed_and_shares_trainings_with_others(base, tmp_path, monkeypatch):
    made = ablation_results(base, "two", tmp_path, tmp_path / "results.json", seeds=2)
    last = [row for row in made.rows if "ap50" in row]
    assert [(row["cell"], row["seed"]) for row in last] == [(cell, seed) for seed in (0, 1) for cell in TWO]
    assert read_json(tmp_path / "results.json")["rows"] == made.rows and len(folders(tmp_path)) == 4
    monkeypatch.setitem(GRIDS, "one", {"one": {"prompt": {"cycles": 1}}})
    shared = ablation_results(base, "one", tmp_path, seeds=2)
    curves = [[row["val_ap50"] for row in rows if row["cell"] in ("one", "one cycle")] for rows in (shared.rows, made.rows)]
    assert curves[0] == curves[1] and len(folders(tmp_path)) == 4
    with pytest.raises(ValueError, match="grid: .* scales, two, one, got 'three'"):
        ablation_results(base, "three", tmp_path)


def test_a_grid_takes_the_cells_its_results_hold(base, tmp_path, quick):
    file = tmp_path / "results.json"
    first = ablation_results(base, "two", tmp_path / "runs", file, seeds=1)
    scored = len(quick)
    again = ablation_results(base, "two", tmp_path / "other", file, seeds=1)
    assert again.rows == first.rows and len(quick) == scored and not (tmp_path / "other").exists()
    more = ablation_results(base, "two", tmp_path / "other", file, seeds=2)  # a further seed
    assert more.rows[: len(first.rows)] == first.rows and len(folders(tmp_path / "other")) == 2


def test_the_base_run_is_evaluated_four_times_and_checked():
    base = ablation_run(steps=600, size=128, coco=["a.json"])
    assert (base.train.warmup, base.train.evaluate_every, base.prompt.cycles, base.data.coco) == (100, 150, 2, ("a.json",))
    assert ablation_run(steps=2, size=64).train.evaluate_every == 1
    with pytest.raises(ValueError, match="steps: expected 1 to"):
        ablation_run(steps=0, size=64)


PARAMS = sorted((PROJECT_ROOT / "notebooks" / "params").glob("03_pgcpp_ablation_*.yml"))


@pytest.mark.parametrize("file", PARAMS, ids=lambda file: file.stem)
def test_parameter_files_are_the_requests_of_the_published_results(file):
    """So that the same schedule is run again; what is trained may have changed since, and with it the rest of the request."""
    values, folder = yaml.safe_load(file.read_text()), PROJECT_ROOT / "data" / "results"
    for grid in values.get("grids", []):
        base = ablation_run(steps=values["steps"], size=values["size"])
        chosen = {"batch_size": values["batch_size"], "lr": values["learning_rate"], "ema_decay": values["ema_decay"]}
        base = replace(base, model=MODELS[values["model"]], train=replace(base.train, **chosen))
        about = {"grid": grid, "scenes": values["eval_scenes"]}
        request = read_json(folder / f"ablation_{grid}.json")["request"]
        assert about.items() <= request.items() and request["base"]["data"]["size"] == base.data.size
        assert request["base"]["train"].items() <= as_json(base)["train"].items() and request["base"]["prompt"] == as_json(
            base.prompt
        )
    if "click_coco" in values:
        rounds, positions = (read_json(folder / f"{study}_nano.json")["request"] for study in ("rounds", "positions"))
        wanted = [values[name] or None for name in ("most_clicks", "rounds_images", "click_seeds", "position_images")]
        assert [rounds["clicks"], rounds["images"], rounds["seeds"], positions["images"]] == wanted
        assert (rounds["kinds"], positions["offsets"]) == (list(KINDS), list(OFFSETS)) and positions["seeds"] == rounds["seeds"]
