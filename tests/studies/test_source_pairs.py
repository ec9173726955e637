"""`dealkit.studies.source_pairs`: distances worked by hand, adapting to every source of a tiny pair."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

import dealkit.studies.runs
from dealkit.data.coco import CocoFolder
from dealkit.files import read_json
from dealkit.predict.predictor import Predictor
from dealkit.studies.source_pairs import adapted_matrix, frechet_distance, image_features, source_distances

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def root(make_sources):
    bolt, nut = (5, [10, 12, 6, 8], 0), (9, [60, 10, 10, 10], 0)
    return make_sources(bolts=[[bolt, (5, [50, 40, 6, 6], 0)]] * 3, nuts=[[nut, (9, [60, 40, 12, 12], 0), bolt]] * 3)


def test_the_distance_of_correlated_normals_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3))
    b = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + 1
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


def test_distances_are_symmetric_with_zeros_on_the_diagonal(wide_model, root):
    table = source_distances(Predictor(wide_model), root, ["bolts", "nuts"], images=2)
    assert table["bolts", "bolts"] == table["nuts", "nuts"] == 0 and table["bolts", "nuts"] == table["nuts", "bolts"] > 0


def test_adapting_to_every_source_goes_on_where_it_was(checkpoint, root, tiny_run, tmp_path, monkeypatch):
    options = {"run": tiny_run, "images": 2, "tested": 2, "results": tmp_path / "r.json"}
    made = adapted_matrix(checkpoint, root, tmp_path / "runs", ["bolts", "nuts"], **options)
    pairs = [(a, b) for a in (None, "bolts", "nuts") for b in ("bolts", "nuts")]
    assert [(r["from"], r["to"]) for r in made.rows] == pairs and all(0 <= r["ap50_ignored"] <= 1 for r in made.rows)
    assert [r["distance"] is None for r in made.rows] == [True] * 2 + [False] * 4
    assert read_json(tmp_path / "r.json")["rows"] == made.rows and str(tmp_path) not in (tmp_path / "r.json").read_text()
    monkeypatch.setattr(dealkit.studies.runs, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert adapted_matrix(checkpoint, root, tmp_path / "runs", ["bolts", "nuts"], **options).rows == made.rows
