"""`dealkit.studies.bench_index`: its two files hold the same, and every reader is measured."""

import pytest
import torch

from dealkit.data.coco import CocoFolder
from dealkit.data.tinyset.index import TinySet, write_index
from dealkit.studies.bench_index import bench_index, index_table, measure, synthetic_columns, write_coco


def test_the_coco_file_of_the_bench_says_what_its_index_says(tmp_path):
    made, categories = synthetic_columns(300)
    write_index(tmp_path / "index.parquet", made, categories)
    write_coco(tmp_path / "train.json", made, categories)
    for name in made["file_name"]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    data, coco = TinySet(tmp_path / "index.parquet"), CocoFolder(tmp_path / "train.json", tmp_path / "images")
    assert [data.rows(i) for i in range(len(data))] == [coco.rows(i) for i in range(len(coco))]
    assert torch.allclose(data.boxes, coco.boxes, atol=0.11) and torch.equal(data.labels.long(), coco.labels)


@pytest.mark.slow
def test_the_bench_measures_every_reader():
    figures = bench_index(3000, 3000, reads=50)
    assert [row["reader"] for row in figures["rows"]] == ["index", "json", "pycocotools"]
    assert (
        figures["open_s"] > 0 and figures["records_per_s"] > 50 and figures["open_rss_mb"] > figures["rows"][0]["import_rss_mb"]
    )
    text = index_table(figures)
    assert "pycocotools" in text and "3,000" in text and figures["growth"]["index"] is None
    with pytest.raises(ValueError, match="expected boxes >= 1"):
        bench_index(0)


def test_a_file_that_cannot_be_measured_is_named(tmp_path):
    with pytest.raises(ValueError, match="bench index: json of none.json: FileNotFoundError"):
        measure("json", tmp_path / "none.json", 1)
