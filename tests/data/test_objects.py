"""Measures of objects worked out by hand, tables of COCO files, and their sums."""

import json

import numpy as np
import pytest

from dealkit.boxes import SIZE_BINS
from dealkit.data.coco import NOT_STATED
from dealkit.data.measures import SUSPICIOUS, box_sizes, local_density, near_duplicates, ring_contrast, suspicious_boxes
from dealkit.data.objects import load_domains, neighbour_shares, read_pixels, read_table, summary
from dealkit.data.scenes.domains import DOMAINS
from dealkit.files import PROJECT_ROOT

OBJECTS = [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [70, 10, 15, 20], 1)], [], [(9, [5, 5, 40, 6], 0)]]


def test_density_looks_within_one_image_and_not_at_crowd():
    boxes = np.array([[0, 0, 4, 4], [10, 0, 14, 4], [0, 0, 4, 4], [20, 0, 24, 4]], dtype=np.float32)
    assert local_density(boxes, np.array([0, 0, 1, 1])).tolist() == [1, 1, 1, 1]
    assert local_density(boxes, np.array([0, 0, 1, 1]), counted=np.array([True, False, True, True])).tolist() == [0, 1, 1, 1]
    assert local_density(np.float32([[0, 0, 4, 4], [32, 0, 36, 4]])).tolist() == [0, 0]  # exactly 32 px away is not within


def test_contrast_of_even_patches():
    image = np.full((30, 40, 3), 100, np.uint8)
    image[5:11, 5:11] = (151, 100, 100)  # 51 / 255 in one channel of three
    image[20:24, 20:24, :] = 49
    boxes = np.array([[5, 5, 11, 11], [20, 20, 24, 24], [30, 5, 36, 11]], dtype=np.float32)
    assert ring_contrast(image, boxes) == pytest.approx([0.2 / 3, 0.2, 0], abs=1e-6)


def test_neighbouring_objects_do_not_belong_to_the_ring():
    image = np.zeros((30, 30, 3), np.uint8)
    boxes = np.array([[x, 10, x + 4, 14] for x in (4, 8, 12)], dtype=np.float32)
    for x in (4, 8, 12):
        image[10:14, x : x + 4] = 255
    assert ring_contrast(image, boxes) == pytest.approx([1, 1, 1])


def test_an_object_with_a_bright_and_a_dark_side_has_contrast():
    image = np.full((30, 30, 3), 100, np.uint8)
    image[10:16, 10:13], image[10:16, 13:16] = 49, 151
    assert ring_contrast(image, np.array([[10.0, 10, 16, 16]])) == pytest.approx([0.2], abs=1e-6)


def test_a_box_on_noise_has_next_to_no_contrast():
    image = np.random.default_rng(0).integers(80, 176, (200, 200, 3)).astype(np.uint8)
    boxes = np.random.default_rng(1).integers(20, 150, (50, 2)).astype(np.float32)
    values = ring_contrast(image, np.concatenate([boxes, boxes + 20], axis=1))
    assert np.median(values) < 0.03  # the noise itself spreads by 28 of 255


def test_boxes_at_the_border_under_a_pixel_and_as_large_as_the_image_are_ordinary():
    image = np.random.default_rng(0).integers(0, 256, (20, 600, 3)).astype(np.uint8)
    boxes = np.array([[0, 0, 3, 3], [599.2, 19.5, 599.6, 19.9], [0, 0, 600, 20], [0, 0, 599, 20], [7.3, 2.1, 590, 19]])
    values = ring_contrast(image, boxes)
    assert np.isfinite(values).all() and values[2] == 0 and (values <= 1).all()


def test_no_objects_give_empty_columns():
    empty = np.zeros((0, 4), np.float32)
    assert len(box_sizes(empty)) == len(local_density(empty)) == len(ring_contrast(np.zeros((5, 5, 3), np.uint8), empty)) == 0
    assert len(suspicious_boxes(empty, np.zeros(0), np.zeros(0, str), np.zeros((0, 2)))) == 0
    assert near_duplicates(np.zeros((0, 4, 4), np.uint8)).shape == (0, 2)


def test_every_reason_is_found():
    small = [[10 * x, 100 + 10 * y, 10 * x + 4, 104 + 10 * y] for x in range(6) for y in range(4)]
    boxes = np.array([*small, [0, 100, 4, 104.2], [50, 10, 80, 15], [90, 90, 91, 94], [100, 10, 130, 40], [0, 0, 180, 150]])
    of_two = suspicious_boxes(boxes[[0, 24]], np.array([0, 1]), np.array(["a", "a"]), np.full((2, 2), 200))
    assert of_two.tolist() == ["", ""]  # boxes of two images are no duplicates
    found = suspicious_boxes(boxes, np.zeros(len(boxes)), np.full(len(boxes), "a"), np.full((len(boxes), 2), 200))
    assert found[:24].tolist() == [""] * 24
    assert found[24:].tolist() == ["duplicate", "thin", "under 2 px", "odd size", "odd size, fills image"]
    assert {reason for text in found if text for reason in text.split(", ")} == set(SUSPICIOUS)


def test_copies_look_alike_and_flat_images_do_not():
    images = np.random.default_rng(0).integers(0, 200, (4, 32, 32)).astype(np.uint8)
    thumbnails = np.concatenate([images, images[1:2] // 2 + 60, np.full((2, 32, 32), 9, np.uint8)])
    assert near_duplicates(thumbnails).tolist() == [[1, 4]]


def test_a_table_holds_every_object_once(make_coco):
    a, b = make_coco("a", OBJECTS), make_coco("b", OBJECTS[2:])
    table = read_table([a, b], {"a": "daily-life scenarios"})
    assert table.images["source"].tolist() == ["a", "a", "a", "b"]
    assert table.images["domain"].tolist() == ["daily-life scenarios"] * 3 + [NOT_STATED]
    assert table.objects["image"].tolist() == [0, 0, 0, 2, 3]
    assert table.objects["category"].tolist() == ["bolt", "bolt", "nut", "nut", "nut"]
    assert table.objects["size_bin"].tolist() == ["vt", "vt", "s", "t", "t"]
    assert table.objects["crowd"].tolist() == [False, False, True, False, False]
    assert (table.rows(0), table.rows(1), table.rows(3)) == (slice(0, 3), slice(3, 3), slice(4, 5))


def test_a_border_belongs_to_the_smaller_bin(make_coco):
    table = read_table([make_coco("a", [[(5, [1, 1, 8, 8], 0), (5, [20, 1, 16, 16], 0), (5, [50, 1, 32, 32], 0)]])])
    assert table.objects["size_bin"].tolist() == ["vt", "t", "s"]


def test_the_split_is_the_name_of_the_file(make_coco):
    file = make_coco("a", OBJECTS)
    assert set(read_table([file.rename(file.parent / "val.json")]).images["split"]) == {"val"}


def test_a_broken_file_is_named(make_coco):
    file = make_coco("a", OBJECTS)
    for text, message in (("{", "content: not a JSON file"), ("{}", "images: missing")):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"annotations.json: file: {message}"):
            read_table([file])
    with pytest.raises(ValueError, match="at least one COCO JSON"):
        read_table([])


def test_sums_agree_with_the_objects(make_coco):
    file = make_coco("a", OBJECTS)
    table = read_table([file], {"a": "infrared"})
    contrast, thumbnails = read_pixels(table)
    assert thumbnails.shape == (3, 32, 32) and (contrast > 0).all()
    made = summary(table, contrast)
    assert json.loads(json.dumps(made)) == made
    total = made["total"]
    assert (total["images"], total["objects"], total["crowd"], total["categories"]) == (3, 3, 1, 2)
    assert total["size_mean"] == pytest.approx((48**0.5 + 6 + 240**0.5) / 3, abs=0.01)
    assert total["size_bins"] == {"vt": 0.6667, "t": 0.3333, "s": 0.0, "m": 0.0} and list(total["size_bins"]) == list(SIZE_BINS)
    assert total["suspicious"]["thin"] == 1
    assert made["domains"]["infrared"]["sources"] == ["a"]
    assert made["sources"]["a"]["objects_of"] == {"bolt": 2, "nut": 1}


def test_a_source_without_objects_has_sums(make_coco):
    table = read_table([make_coco("empty", [[], []])])
    made = summary(table, read_pixels(table)[0])["total"]
    assert (made["images"], made["objects"], made["size_mean"], made["size_quantiles"]) == (2, 0, None, None)


def test_the_committed_domains_can_be_read():
    domains = load_domains(PROJECT_ROOT / "data" / "domains.json")
    assert domains["nuclei"] == "microscopic observation" and domains["sirst"] == "infrared"
    assert domains.items() >= {name: domain.title for name, domain in DOMAINS.items()}.items()


@pytest.mark.parametrize(
    ("text", "message"), [("[", "not a JSON file"), ("[1]", "file: expected an object"), ('{"a": 1}', "a: expected")]
)
def test_a_bad_table_of_domains_is_named(tmp_path, text, message):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ValueError, match=rf"d\.json: {message}"):
        load_domains(tmp_path / "d.json")
    with pytest.raises(ValueError, match="no such file of domains"):
        load_domains(tmp_path / "none.json")


def test_neighbours_elsewhere_are_asked_only_of_what_is_in_several_images():
    vectors, image = np.array([[1.0, 0.0], [1.0, 0.1], [0.1, 1.0], [0.0, 1.0]]), np.array([0, 0, 1, 2])
    shares = neighbour_shares(vectors, {"source": np.array(["a", "a", "b", "a"])}, image)["source"]
    assert shares == {"same": 0.5, "elsewhere": 0.0, "chance": 0.625}, "elsewhere, b is the nearest of each a"
    alone = neighbour_shares(vectors, {"source": np.array(["a", "b", "c", "d"])}, image)["source"]
    assert alone == {"same": 0.0, "elsewhere": None, "chance": 0.25}
