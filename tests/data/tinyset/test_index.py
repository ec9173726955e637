"""`dealkit.data.tinyset.index`: writing and opening the index, its parts, the data set over it and the sampler."""

import pickle
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.tinyset.index import BOX_COLUMNS, SIZE_COLUMNS, TEXT_COLUMNS, DomainSampler, TinySet, write_index
from dealkit.studies.bench_index import bench_index, index_table, measure, synthetic_columns, write_coco

CATEGORIES = [{"id": 1, "name": "bolt", "supercategory": "part"}, {"id": 2, "name": "nut", "supercategory": "part"}]


def columns(rows):
    """Index columns of rows (split, domain, source, boxes, labels, ignore)."""
    made = {name: [""] * len(rows) for name in TEXT_COLUMNS} | {name: [8] * len(rows) for name in SIZE_COLUMNS}
    made["file_name"] = [f"{i}.png" for i in range(len(rows))]
    for k, name in enumerate(("split", "domain", "source")):
        made[name] = [row[k] for row in rows]
    for k, name in enumerate(BOX_COLUMNS):
        made[name] = [[float(box[k]) for box in row[3]] for row in rows]
    return made | {"label": [r[4] for r in rows], "ignore": [r[5] for r in rows], "num_boxes": [len(r[3]) for r in rows]}


@pytest.fixture
def index(tmp_path):
    rows = [
        ("train", "air", "dota", [[1, 2, 3, 4], [0, 0, 8, 8]], [1, 0], [False, True]),
        ("train", "road", "bdd", [], [], []),
        ("val", "air", "dota", [[5, 5, 6, 7]], [1], [False]),
    ]
    write_index(tmp_path / "index.parquet", columns(rows), CATEGORIES)
    for i in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "index.parquet"


def test_what_was_written_is_read(index):
    data = TinySet(index)
    assert len(data) == 3 and data.categories == [(1, "bolt"), (2, "nut")] and data.supercategories == ["part", "part"]
    assert data.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 8, 8], [5, 5, 6, 7]] and data.boxes.dtype == torch.float32
    assert data.labels.tolist() == [1, 0, 1] and data.crowd.tolist() == [False, True, False]
    assert [data.rows(i) for i in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    record = data.record(2)
    assert (record.split, record.domain, record.source, record.image_id) == ("val", "air", "dota", 3)
    assert record.annotation_ids.tolist() == [3] and record.path == index.parent / "images" / "2.png"


def test_items_are_samples_with_and_without_objects(index):
    first, empty, _ = (TinySet(index)[i] for i in range(3))
    assert isinstance(first, Sample) and first.image.shape == (3, 8, 8) and first.labels.dtype == torch.int64
    assert first.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 8, 8]] and first.crowd.tolist() == [False, True]
    assert empty.boxes.shape == (0, 4) and len(empty.labels) == 0 and empty.image_id == 2 and empty.source == "bdd"


def test_a_part_is_of_one_split_domain_and_source(index):
    data = TinySet(index)
    part = data.select(split="train", domain="air")
    assert len(part) == 1 and part.record(0).image_id == 1 and part.boxes is data.boxes
    assert part.counts.tolist() == [2] and data.counts.tolist() == [2, 0, 1]
    assert data.domains == ["air", "road"] and data.select(split="val").domains == ["air"]
    assert data.sources_of("road") == ["bdd"]
    assert len(data.select(split="val", domain="road")) == 0
    assert len(data.select(split="test")) == 0
    with pytest.raises(ValueError, match=r"index.parquet: split: expected one of train, val, got 'trian'"):
        data.select(split="trian")
    with pytest.raises(ValueError, match=r"index.parquet: source: expected one of bdd, dota, got 'xview'"):
        data.select(source="xview")


def test_a_changed_image_raises_and_names_the_sizes(index):
    Image.new("RGB", (9, 8)).save(index.parent / "images" / "0.png")
    with pytest.raises(ValueError, match=r"0.png: width, height: the index says 8 x 8, the file has 9 x 8"):
        TinySet(index)[0]


def test_a_pickled_part_opens_the_file_again_and_is_small(tmp_path):
    made, categories = synthetic_columns(20_000)
    write_index(tmp_path / "index.parquet", made, categories)
    part = TinySet(tmp_path / "index.parquet").select(domain="UAV")
    text = pickle.dumps(part)
    again = pickle.loads(text)
    assert len(text) < 20_000 and len(again) == len(part) > 10
    assert torch.equal(again.record(7).boxes, part.record(7).boxes) and again.record(7).domain == "UAV"


def test_many_row_groups_are_read_as_written(tmp_path):
    made, categories = synthetic_columns(200_000)  # 5,956 images, two row groups
    write_index(tmp_path / "index.parquet", made, categories)
    data = TinySet(tmp_path / "index.parquet")
    flat = np.stack([made[name].values.to_numpy() for name in BOX_COLUMNS], axis=1)
    assert np.array_equal(data.boxes.numpy(), flat) and np.array_equal(data.counts, made["num_boxes"])
    assert np.array_equal(data.crowd.numpy(), made["ignore"].values.to_numpy(zero_copy_only=False))
    assert data.record(5000).domain == made["domain"][5000] and data.record(5000).source == made["source"][5000]


def test_an_index_without_images_opens(tmp_path):
    write_index(tmp_path / "index.parquet", columns([]), CATEGORIES)
    data = TinySet(tmp_path / "index.parquet")
    assert len(data) == 0 and data.boxes.shape == (0, 4) and data.domains == []
    with pytest.raises(ValueError, match="no image to draw"):
        data.balanced()


def test_what_is_no_index_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.parquet: no such index"):
        TinySet(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello, this is no parquet file")
    with pytest.raises(ValueError, match="text.parquet: not a Parquet file"):
        TinySet(tmp_path / "text.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet: not the index of a TinySet: no column domain"):
        TinySet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="columns: expected file_name"):
        write_index(tmp_path / "a.parquet", {"x": [1]}, CATEGORIES)
    made = columns([("train", "air", "dota", [[1, 2, 3, 4]], [1], [False])]) | {"num_boxes": [2]}
    write_index(tmp_path / "wrong.parquet", made, CATEGORIES)
    with pytest.raises(ValueError, match="wrong.parquet: num_boxes: 2 in all, but column x1 has 1"):
        TinySet(tmp_path / "wrong.parquet")


# Sampling


@pytest.fixture
def uneven(tmp_path):
    """Domain `air` with sources of 64 and 4 images, domain `road` with one image; one val image."""
    rows = [("train", "air", "large")] * 64 + [("train", "air", "small")] * 4 + [("train", "road", "bdd"), ("val", "road", "bdd")]
    write_index(tmp_path / "index.parquet", columns([(*row, [], [], []) for row in rows]), CATEGORIES)
    return TinySet(tmp_path / "index.parquet").select(split="train")


def test_shares_by_domain_and_source(uneven):
    def shares(**options):
        parts, made = uneven.balanced(**options)
        return {part.record(0).source: pytest.approx(share) for part, share in zip(parts, made, strict=True)}

    # Each domain half; in `air` by the root of the sizes: 8 and 2 of 10; by the sizes: 64 and 4 of 68; alike
    assert shares() == {"large": 0.4, "small": 0.1, "bdd": 0.5}
    assert shares(power=1) == {"large": 0.5 * 64 / 68, "small": 0.5 * 4 / 68, "bdd": 0.5}
    assert shares(power=0) == {"large": 0.25, "small": 0.25, "bdd": 0.5}
    assert shares(weights={"air": 3, "road": 1}) == {"large": 0.6, "small": 0.15, "bdd": 0.25}
    assert shares(weights={"road": 2}) == {"bdd": 1.0}
    for wrong in ({"sea": 1.0}, {"air": -1.0}, {"air": float("nan")}):
        with pytest.raises(ValueError, match="balanced: weights: expected air, road, each from 0"):
            uneven.balanced(weights=wrong)
    with pytest.raises(ValueError, match="power: expected 0 to 1"):
        uneven.balanced(power=2)


def test_draws_have_these_shares(uneven):
    drawn = Counter(uneven.record(i).source for i in DomainSampler(uneven, 10_000, seed=1))
    # three standard deviations of a share of 0.5 in 10,000 draws are 0.015
    assert {k: pytest.approx(v / 10_000, abs=0.015) for k, v in drawn.items()} == {"large": 0.4, "small": 0.1, "bdd": 0.5}
    images = Counter(i for i in DomainSampler(uneven, 10_000, seed=1) if uneven.record(i).source == "small")
    assert len(images) == 4 and min(images.values()) > 200


def test_draws_go_on_anywhere_and_are_divided_among_processes(uneven):
    every = list(DomainSampler(uneven, 50, seed=3))
    assert every == list(DomainSampler(uneven, 50, seed=3)) != list(DomainSampler(uneven, 50, seed=4))
    assert list(DomainSampler(uneven, 30, seed=3, start=20)) == every[20:]
    first, second = (DomainSampler(uneven, 50, seed=3, rank=r, world=2) for r in (0, 1))
    assert list(first) == every[::2] and list(second) == every[1::2] and len(first) == len(second) == 25
    with pytest.raises(ValueError, match="rank: expected 0 to 1, got 2"):
        DomainSampler(uneven, 50, rank=2, world=2)


def test_a_loader_takes_the_sampler(index):
    data = TinySet(index).select(split="train")
    loader = torch.utils.data.DataLoader(data, batch_size=2, sampler=DomainSampler(data, 6), collate_fn=list)
    assert sorted({sample.source for batch in loader for sample in batch}) == ["bdd", "dota"]


# The bench


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
