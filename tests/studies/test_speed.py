"""`dealkit.studies.speed`: the index that is timed."""

import pytest

from dealkit.data.tinyset.index import TinySet
from dealkit.studies.speed import bench_index, made_up_index


def test_a_made_up_index_has_as_many_boxes_as_asked(tmp_path):
    made_up_index(tmp_path / "index.parquet", 3000)
    data = TinySet(tmp_path / "index.parquet")
    assert len(data) == 89 and len(data.boxes) == 3000  # 3000 / (9,000,000 / 268,000) images
    assert (data.boxes[:, :2] >= 0).all() and (data.boxes[:, 2:] > data.boxes[:, :2]).all() and data.boxes.max() <= 1024


def test_opening_and_reading_an_index_are_timed():
    figures = bench_index(300, reads=20)
    assert (figures["boxes"], figures["images"]) == (300, 9) and figures["open_s"] > 0 and figures["records_per_s"] > 0
    with pytest.raises(ValueError, match="boxes >= 1 and reads >= 1, got 0 and 20"):
        bench_index(0, reads=20)
