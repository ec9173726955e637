"""`dealkit.studies.index_speed`: the index that is timed, at the number of boxes asked for."""

import numpy as np
import pytest

from dealkit.data.tinyset.index import TinySet, write_index
from dealkit.studies.index_speed import bench_index, random_columns


def test_the_index_is_of_the_boxes_asked_for_and_every_part_of_it_is_timed():
    made = bench_index(2000, draws=20)
    assert (made["boxes"], made["images"]) == (2000, 61) and made["held_mb"] == pytest.approx(2000 * 19 / 1e6)
    assert all(made[name] > 0 for name in ("write_s", "file_mb", "open_s", "draw_us"))


def test_its_boxes_lie_in_images_of_all_domains(tmp_path):
    write_index(tmp_path / "index.parquet", random_columns(61, 2000), [{"id": 1, "name": "a", "supercategory": "other"}])
    data = TinySet(tmp_path / "index.parquet")
    assert len(data.domains) == 6 and len(data.sources) == 61 and sorted(np.unique(data.counts)) == [32, 33]
    assert (data.boxes[:, 2:] > data.boxes[:, :2]).all() and data.boxes.max() <= 640
