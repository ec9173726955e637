"""`dealkit.studies.speed`: what is timed, and beside what."""

import pytest

from dealkit.studies.speed import make_map, milliseconds


def test_timing_takes_the_median_of_turns():
    turns = []
    times = milliseconds({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 3)
    assert turns == ["a", "a", "b", "b"] + ["a", "b"] * 3 and min(times.values()) >= 0


def test_the_compared_detector_is_rtdetr_r18():
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    from dealkit.studies.speed import rtdetr_r18

    assert sum(p.numel() for p in rtdetr_r18().parameters()) / 1e6 == pytest.approx(20.1, abs=0.1)  # published: 20 M


def test_a_made_map_has_scenes_above_and_no_data_below(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="maps need the extra geo")
    x, y = make_map(tmp_path / "map.tif", 150, seen=70, tile=64)
    assert 0 < x < 64 and 0 < y < 64
    with rasterio.open(tmp_path / "map.tif") as file:
        values = file.read()
        assert file.crs.to_epsg() == 32632 and file.transform * (2, 4) == (500_001, 4_999_998)
    assert values.shape == (3, 150, 150) and (values[:, :70] > 0).mean() > 0.9 and not values[:, 70:].any()
