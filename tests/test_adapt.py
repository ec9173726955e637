"""`dealkit.adapt`: rows, resuming, other detectors on the same images, and the tables."""

import pytest

import dealkit.protocols
import dealkit.train
from dealkit.adapt import CLICKS, DEAL_TUNED, adapt, adapting_run, shot_rows, shot_table
from dealkit.config import DataConfig, RunConfig, TrainConfig
from dealkit.prompts import read_json
from dealkit.train import save_model

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture(autouse=True)
def no_board(monkeypatch):
    monkeypatch.setattr(dealkit.train, "tensorboard", lambda out: None)


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    save_model(tiny_model, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def root(make_coco):
    file = make_coco("root/land", [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0)]] * 3)
    (file.parent / "val.json").write_text(file.read_text())
    file.rename(file.parent / "train.json")
    return file.parents[1]


def test_rows_of_every_method_and_a_second_call_trains_nothing(checkpoint, root, tiny_config, tmp_path, monkeypatch):
    run = RunConfig(
        model=tiny_config, data=DataConfig(size=64, workers=0), train=TrainConfig(steps=2, batch_size=2, warmup=1, log_every=1)
    )
    asked = []

    def detector(train, val, folder, seed):
        asked.append((len(read_json(train)["images"]), val.name, seed))
        return {"mean": {"ap50": 0.25}, "minutes": 0.5}

    options = {"run": run, "sources": ["land"], "shots": (1, 2), "seeds": 2, "detectors": {"other": detector}}
    made = adapt(checkpoint, root, tmp_path / "runs", results=tmp_path / "r.json", **options)
    assert [(r["method"], r["shots"], r["seed"]) for r in made["rows"]] == [
        (CLICKS, 0, 0),
        *[(method, k, seed) for seed in (0, 1) for k in (1, 2) for method in (DEAL_TUNED, "other")],
    ]
    assert asked == [(1, "val.json", 0), (2, "val.json", 0), (1, "val.json", 1), (2, "val.json", 1)]
    assert read_json(tmp_path / "r.json")["rows"] == made["rows"] and str(tmp_path) not in (tmp_path / "r.json").read_text()
    monkeypatch.setattr(dealkit.protocols, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert adapt(checkpoint, root, tmp_path / "runs", **options)["rows"] == made["rows"] and len(asked) == 4


def test_the_run_is_of_the_model_of_the_checkpoint(checkpoint, tiny_config):
    run = adapting_run(checkpoint, steps=20, size=64, batch_size=2, lr=1e-3)
    assert run.model == tiny_config and (run.train.steps, run.train.batch_size, run.train.lr, run.data.size) == (20, 2, 1e-3, 64)
    assert run.train.warmup == 2 and 0 < run.data.synthetic < 0.5


def row(method, shots, seed, source, ap50):
    return {"method": method, "shots": shots, "seed": seed, "source": source, "mean": {"ap50": ap50}}


def test_only_sources_that_all_have_enter_a_mean():
    rows = [row(CLICKS, 0, 0, "a", 0.4), row(CLICKS, 0, 0, "b", 0.8), row(DEAL_TUNED, 1, 0, "a", 0.6)]
    assert shot_rows({"rows": rows}) == [
        {"method": CLICKS, "shots": 0, "seed": 0, "ap50": 0.4},
        {"method": DEAL_TUNED, "shots": 1, "seed": 0, "ap50": 0.6},
    ]
    assert shot_rows({"rows": []}) == [] and shot_rows({"rows": [row("m", 1, 0, "a", None)]}) == []


def test_the_table_has_a_column_per_number_of_images():
    rows = [row(CLICKS, 0, 0, "a", 0.4), row(DEAL_TUNED, 5, 0, "a", 0.5), row(DEAL_TUNED, 5, 1, "a", 0.7)]
    lines = shot_table({"rows": rows}).splitlines()
    assert lines[0] == "| | 0 images | 5 images |" and lines[2] == "| clicks alone | 40.0 | – |"
    assert lines[3] == "| fine-tuned | – | 60.0 ± 14.1 |"  # the deviation of 50 and 70 is 20 / √2
