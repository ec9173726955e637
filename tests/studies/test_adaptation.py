"""`dealkit.studies.adaptation`: rows, resuming, other detectors on the same images, and the tables."""

import pytest
import torch

import dealkit.studies.runs
import dealkit.train.loop
from dealkit.baselines.detector import build_detector, load_detector
from dealkit.config import DataConfig, DetectorConfig, RunConfig, TrainConfig
from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.predict.detections import Detections
from dealkit.report.tables import shot_rows, shot_table
from dealkit.studies.adaptation import CLICKS, DEAL_TUNED, adapt, adapting_run, score_detector, tuned_detector

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture(autouse=True)
def no_board(monkeypatch):
    monkeypatch.setattr(dealkit.train.loop, "tensorboard", lambda out: None)


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
    monkeypatch.setattr(dealkit.studies.runs, "fit", lambda *a, **k: pytest.fail("trained again"))
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


def test_a_detector_is_tuned_from_its_checkpoint_and_scored_on_the_same_images(root, tmp_path):
    config = DetectorConfig(hidden_dim=32)
    save_model(build_detector(config), tmp_path / "fcos.safetensors")  # of one class; the source has two
    train = TrainConfig(steps=1, batch_size=2, warmup=1, log_every=1)
    run = RunConfig(data=DataConfig(size=64, workers=0), train=train)
    tune = tuned_detector(run, init=tmp_path / "fcos.safetensors", clicks=2)
    made = tune(root / "land" / "train.json", root / "land" / "val.json", tmp_path / "fcos", 0)
    tuned = load_detector(tmp_path / "fcos" / "model.safetensors")
    assert tuned.config.categories == ("bolt", "nut") and not (tmp_path / "fcos" / "state.pt").exists()
    assert 0 <= made["mean"]["ap50"] <= 1 and 0 <= made["mean"]["ap50_ignored"] <= 1 and made["minutes"] >= 0


def test_boxes_of_categories_that_an_image_lacks_are_left_out_of_a_detectors_score(root):
    """Perfect boxes as bolts and as nuts: the images have bolts only, so the nuts cost nothing."""

    class Perfect:
        config = DetectorConfig(categories=("nut", "bolt"))

        def eval(self):
            return self

        def detect(self, images):
            boxes = torch.tensor([[10.0, 12, 16, 20], [50, 40, 56, 46]]).repeat(2, 1)
            found = Detections(boxes=boxes, scores=torch.full((4,), 0.9), classes=torch.tensor([0, 0, 1, 1]))
            return [found] * len(images)

    scores = score_detector(Perfect(), root / "land" / "val.json", clicks=1)
    assert scores["ap50"] == 1 and scores["ap50_ignored"] == 1
