"""`dealkit.studies.prompt_transfer` and its figures: distances worked by hand, both matrices on tiny sources."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import dealkit.studies.runs
import dealkit.train.loop
from dealkit.config import DataConfig, RunConfig, TrainConfig
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import make_scene
from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor
from dealkit.studies import cross_figures
from dealkit.studies.prompt_transfer import (
    adapted_matrix,
    distances,
    frechet_distance,
    image_features,
    losses,
    main_category,
    prompt_matrix,
    rank_correlation,
)

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(dealkit.train.loop, "tensorboard", lambda out: None)
    yield
    plt.close("all")


@pytest.fixture
def root(make_coco):
    """Two sources: bolts only, and mostly nuts."""
    bolt, nut = (5, [10, 12, 6, 8], 0), (9, [60, 10, 10, 10], 0)
    for name, objects in (("bolts", [[bolt, (5, [50, 40, 6, 6], 0)]] * 3), ("nuts", [[nut, (9, [60, 40, 12, 12], 0), bolt]] * 3)):
        file = make_coco(f"root/{name}", objects)
        (file.parent / "val.json").write_text(file.read_text())
        file.rename(file.parent / "train.json")
    return file.parents[1]


def test_the_distance_of_correlated_normals_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3))
    b = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + 1
    from scipy.linalg import sqrtm

    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6) == frechet_distance(b, a)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + [3, 4, 0]) == pytest.approx(25, rel=1e-6)  # the same shape, moved by 5
    with pytest.raises(ValueError, match=r"b: expected features \(n >= 2, D\)"):
        frechet_distance(a, b[:1])


def test_features_are_cells_of_the_image_and_not_of_its_padding(tiny_model, root):
    folder = root / "bolts"
    features = image_features(Predictor(tiny_model), CocoFolder(folder / "val.json", folder / "images"), 2)
    assert features.shape == (2 * 5 * 6, 32)  # 70 x 90 pixels: 5 x 6 cells of 16


def test_distances_are_symmetric_with_zeros_on_the_diagonal(tiny_model, root):
    table = distances(Predictor(tiny_model), root, ["bolts", "nuts"], images=2)
    assert table["bolts"]["bolts"] == table["nuts"]["nuts"] == 0 and table["bolts"]["nuts"] == table["nuts"]["bolts"] > 0


def test_the_main_category_has_the_most_objects(root):
    assert main_category(read_json(root / "nuts" / "train.json")) == (9, "nut")
    tie = {"categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}], "annotations": []}
    assert main_category(tie) == (1, "a")


def test_prompts_of_every_source_are_asked_of_every_other(checkpoint, root, tmp_path):
    made = prompt_matrix(checkpoint, root, ["bolts", "nuts"], clicked=2, images=2, results=tmp_path / "r.json")
    assert made["categories"] == {"bolts": "bolt", "nuts": "nut"} and set(made["own"]) == {"bolts", "nuts"}
    assert all(0 <= made["ap50"][a][b] <= 1 for a in made["ap50"] for b in made["ap50"])
    assert read_json(tmp_path / "r.json")["ap50"] == made["ap50"]
    assert [(r["from"], r["to"]) for r in losses(made)] == [("bolts", "nuts"), ("nuts", "bolts")]


def test_adapting_to_every_source_goes_on_where_it_was(checkpoint, root, tiny_config, tmp_path, monkeypatch):
    train = TrainConfig(steps=2, batch_size=2, warmup=1, log_every=1)
    run = RunConfig(model=tiny_config, data=DataConfig(size=64, workers=0), train=train)
    options = {"run": run, "images": 2, "tested": 2}
    made = adapted_matrix(checkpoint, root, tmp_path / "runs", ["bolts", "nuts"], results=tmp_path / "r.json", **options)
    assert set(made["after"]) == set(made["before"]) == set(made["minutes"]) == {"bolts", "nuts"}
    assert read_json(tmp_path / "r.json")["after"] == made["after"] and str(tmp_path) not in (tmp_path / "r.json").read_text()
    monkeypatch.setattr(dealkit.studies.runs, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = adapted_matrix(checkpoint, root, tmp_path / "runs", ["bolts", "nuts"], **options)
    assert again["after"] == made["after"]


def test_losses_leave_out_what_has_no_score():
    table = {"a": {"a": 0.5, "b": None}, "b": {"a": 0.1, "b": None}}
    rows = losses({"after": table, "distance": {"a": {"b": 1.0}, "b": {"a": 1.0}}})
    assert rows == [{"from": "b", "to": "a", "distance": 1.0, "loss": 0.4}]
    assert rank_correlation(rows) is None and rank_correlation([]) is None


def test_figures_show_every_source_and_number():
    table = {"a": {"a": 1.0, "b": None}, "b": {"a": 0.25, "b": 0.5}}
    figure = cross_figures.matrix_figure(table, groups={"a": "sea", "b": "land"})
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["b", "a"]  # by group: land before sea
    assert sorted(t.get_text() for t in figure.axes[0].texts) == ["100", "25", "50"]
    signed = cross_figures.matrix_figure({"a": {"a": 0.0}}, signed=True)
    assert signed.axes[0].texts[0].get_text() == "0"
    values = {"a": {"a": 0.123, "b": -0.004}, "b": {"a": -0.05, "b": 0.0}}
    texts = [t.get_text() for t in cross_figures.matrix_figure(values, signed=True).axes[0].texts]
    assert texts == ["+12", "0", "-5", "0"]
    gaps = [{"source": "a", "seen": 0.5, "unseen": 0.25, "before": None}]
    assert [t.get_text() for t in cross_figures.gap_figure(gaps).axes[0].get_yticklabels()] == ["a"]
    assert cross_figures.gap_figure([]).axes
    results = {"ap50": {"a": {"a": 0.5, "b": 0.1}, "b": {"a": 0.2, "b": 0.5}}, "distance": {"a": {"b": 1.0}, "b": {"a": 1.0}}}
    texts = [t.get_text() for t in cross_figures.distance_figure(results).axes[0].texts]
    assert sorted(texts) == ["a → b", "b → a"]


def test_figures_of_shots_public_data_and_pictures():
    points = (("clicks alone", 0, 0.4), ("x", 1, 0.5), ("x", 5, 0.6))
    rows = [{"method": m, "shots": k, "seed": 0, "source": "s", "mean": {"ap50": v}} for m, k, v in points]
    ax = cross_figures.shot_figure({"rows": rows}).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "5"] and len(ax.get_legend().get_texts()) == 2
    assert cross_figures.shot_figure({"rows": []}).axes
    group = {"mean": {"ap50": 0.3}, "spread": {"ap50": None}}
    public = {"dior": {"groups": {"all": group, "class-agnostic": group}, "paper": {"ap50": 50.0}, "images": 2}}
    assert len(cross_figures.public_figure(public).axes[0].patches) == 2
    sample = make_scene(0, size_hw=(64, 64))
    found = Detections(boxes=sample.boxes, scores=sample.boxes.new_ones(len(sample.boxes)))
    assert len(cross_figures.draw_transfer(sample, {"before": found, "after": found}).axes) == 2


def test_the_picture_is_the_one_whose_answer_changed_most(checkpoint, make_tiny, tmp_path):
    save_model(make_tiny(seed=5), tmp_path / "other.safetensors")
    samples = [make_scene(i, size_hw=(64, 64)) for i in range(2)]
    chosen, found = cross_figures.most_changed(samples, {"before": checkpoint, "after": tmp_path / "other.safetensors"})
    assert list(found) == ["before", "after"] and len(chosen.labels.unique()) == 1
    with pytest.raises(ValueError, match="expected samples with objects and two checkpoints, got 0 and 1"):
        cross_figures.most_changed([], {"before": checkpoint})
