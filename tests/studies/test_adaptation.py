"""`dealkit.studies.adaptation`: rows, resuming, other detectors on the same images, and the tables."""

import pytest
import torch

import dealkit.studies.runs
from dealkit.baselines.detector import Detector, load_detector
from dealkit.config import DetectorConfig
from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.predict.detections import Detections
from dealkit.report.study_tables import shot_means, shot_table
from dealkit.studies.adaptation import CLICKS, DEAL_TUNED, adapting_run, few_shot_scores, score_detector, tuned_detector

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def root(make_sources):
    return make_sources(land=[[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0)]] * 3)


def test_rows_of_every_method_and_a_second_call_trains_nothing(checkpoint, root, tiny_run, tmp_path, monkeypatch):
    asked = []

    def detector(train, val, folder, draw):
        asked.append((len(read_json(train)["images"]), val.name, draw))
        return [{"seed": 0, "ap50": 0.25, "minutes": 0.5}]

    options = {"run": tiny_run, "sources": ["land"], "shots": (1, 2), "seeds": 2, "detectors": {"other": detector}}
    file = tmp_path / "r.json"
    made = few_shot_scores(checkpoint, root, tmp_path / "runs", results=file, **options)
    assert list(dict.fromkeys((r["method"], r["shots"], r["draw"]) for r in made.rows)) == [
        (CLICKS, 0, 0),
        *[(method, k, draw) for draw in (0, 1) for k in (1, 2) for method in (DEAL_TUNED, "other")],
    ]
    assert [r["seed"] for r in made.rows if r["method"] == CLICKS] == [0, 1]
    assert asked == [(1, "val.json", 0), (2, "val.json", 0), (1, "val.json", 1), (2, "val.json", 1)]
    assert read_json(file)["rows"] == made.rows and str(tmp_path) not in file.read_text()
    monkeypatch.setattr(dealkit.studies.runs, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert few_shot_scores(checkpoint, root, tmp_path / "runs", results=file, **options).rows == made.rows and len(asked) == 4


def test_the_run_is_of_the_model_of_the_checkpoint(checkpoint, tiny_config):
    run = adapting_run(checkpoint, steps=20, size=64, batch_size=2, lr=1e-3)
    assert run.model == tiny_config and (run.train.steps, run.train.batch_size, run.train.lr, run.data.size) == (20, 2, 1e-3, 64)
    assert run.train.warmup == 2 and 0 < run.data.synthetic < 0.5


def row(method, shots, draw, source, ap50):
    return {"method": method, "shots": shots, "draw": draw, "source": source, "ap50": ap50}


def test_only_sources_that_all_have_enter_a_mean():
    rows = [row(CLICKS, 0, 0, "a", 0.4), row(CLICKS, 0, 0, "b", 0.8), row(DEAL_TUNED, 1, 0, "a", 0.6)]
    assert shot_means({"rows": rows}).values.tolist() == [[CLICKS, 0, 0, 0.4], [DEAL_TUNED, 1, 0, 0.6]]
    assert shot_means({"rows": [row("m", 1, 0, "a", None)]}).empty


def test_the_table_has_a_column_per_number_of_images():
    rows = [row(CLICKS, 0, 0, "a", 0.4), row(DEAL_TUNED, 5, 0, "a", 0.5), row(DEAL_TUNED, 5, 1, "a", 0.7)]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shot_table({"rows": rows}).splitlines()]
    assert lines[0] == ["", "0 images", "5 images"] and lines[2] == ["clicks alone", "40.0", "–"]
    assert lines[3] == ["fine-tuned", "–", "60.0 ± 14.1"]  # the deviation of 50 and 70 is 20 / √2


def test_a_detector_is_tuned_from_its_checkpoint_and_scored_on_the_same_images(root, tiny_run, tmp_path):
    fcos = Detector(DetectorConfig(backbone="pico", hidden_dim=32))  # of one class; the source has two
    save_model(fcos, tmp_path / "fcos.safetensors")
    tune = tuned_detector(tiny_run, init=tmp_path / "fcos.safetensors", clicks=2)
    rows = tune(root / "land" / "train.json", root / "land" / "val.json", tmp_path / "fcos", 0)
    tuned = load_detector(tmp_path / "fcos" / "model.safetensors")
    assert tuned.config.categories == ("bolt", "nut") and not (tmp_path / "fcos" / "state.pt").exists()
    assert [r["seed"] for r in rows] == [0, 1] and rows[0]["ap50"] == rows[1]["ap50"]  # clicks change the ignored objects only
    assert all(0 <= r["ap50_ignored"] <= 1 and r["minutes"] >= 0 for r in rows)


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

    [scores] = score_detector(Perfect(), root / "land" / "val.json", clicks=1)
    assert scores["ap50"] == 1 and scores["ap50_ignored"] == 1
