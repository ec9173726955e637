"""`dealkit.data.tinyset.index`: writing and opening the index, its parts, and the data set over it."""

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dealkit.data.coco import Sample
from dealkit.data.tinyset.index import BOX_COLUMNS, SIZE_COLUMNS, TEXT_COLUMNS, TinySet, write_index

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
    assert data.select(domain="road").sources == ["bdd"]
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


def test_a_pickled_part_of_many_row_groups_opens_the_file_again_and_is_small(tmp_path):
    rows = []
    for i in range(5000):  # two row groups
        objects = ([[i, 1, i + 4, 5]] * (i % 3), [i % 2] * (i % 3), [i % 5 == 0] * (i % 3))
        rows.append(("train", ("air", "road")[i % 2], f"s{i % 4}", *objects))
    write_index(tmp_path / "index.parquet", columns(rows), CATEGORIES)
    data = TinySet(tmp_path / "index.parquet")
    assert data.counts.tolist() == [len(row[3]) for row in rows]
    assert data.boxes.tolist() == [box for row in rows for box in row[3]]
    assert data.crowd.tolist() == [crowd for row in rows for crowd in row[5]]
    part = data.select(domain="road")
    again = pickle.loads(text := pickle.dumps(part))
    assert len(text) < 30_000 and len(again) == len(part) == 2500
    assert torch.equal(again.record(2400).boxes, part.record(2400).boxes) and again.record(2400).source == rows[4801][2] == "s1"


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
    with pytest.raises(ValueError, match="power: expected 0 to 1"):
        uneven.balanced(power=2)
