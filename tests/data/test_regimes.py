"""`dealkit.data.regimes`: each law on hand-worked numbers, nested and seeded draws, crowds, ids, and inputs at the edge."""

import copy
import json
import random

import pytest

from dealkit.data.regimes import (
    REGIMES,
    apply_regime,
    box_noise,
    centre_points,
    for_training,
    labelled_share,
    sparse_shot,
)

EMPTY = {"images": [], "annotations": [], "categories": []}


def made(images=20, objects=12, crowd=True):
    """`objects` boxes of two categories in each image, and a crowd region."""
    rows = []
    for image in range(1, images + 1):
        for k in range(objects):
            box = [5.0 * k, 3.0 * k, 4.0 + k, 6.0]
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": 1 + k % 2, "bbox": box, "area": box[2] * box[3]})
            rows[-1] |= {"iscrowd": 0, "segmentation": [[0, 0, 1, 1, 1, 0]]}
        if crowd:
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 1})
    pictures = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in range(1, images + 1)]
    return {"images": pictures, "annotations": rows, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}


def ids(coco, key="annotations"):
    return {row["id"] for row in coco[key]}


def one(box, size_wh=(100, 100)):
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": list(box)}
    return {"images": [{"id": 1, "width": size_wh[0], "height": size_wh[1]}], "categories": [{"id": 1}], "annotations": [row]}


# the laws


def test_noise_moves_and_scales_by_a_share_of_the_size(monkeypatch):
    """Draws 1, 0.25, 0.75, 0 are u = +level, -level/2, +level/2, -level; box centre (45, 50), 10 x 20, level 0.4:
    cx 45 + 4 = 49, cy 50 - 4 = 46, w 10 x 1.2 = 12, h 20 x 0.6 = 12."""
    monkeypatch.setattr("dealkit.data.regimes.uniforms", lambda *key, number: (1.0, 0.25, 0.75, 0.0)[:number])
    row = box_noise(one([40, 40, 10, 20]), level=0.4)["annotations"][0]
    assert row["bbox"] == pytest.approx([43, 40, 12, 12]) and row["area"] == pytest.approx(144)


def test_noise_is_uniform_with_the_stated_ends():
    """20,000 draws: u of mean 0, variance level^2 / 3, within the ends and near both; the four do not follow one another."""
    many = one([400, 400, 10, 20], (1000, 1000))
    many["annotations"] = [many["annotations"][0] | {"id": i} for i in range(1, 5001)]
    boxes = [row["bbox"] for row in box_noise(many, level=0.2)["annotations"]]
    shares = [((x + w / 2 - 405) / 10, (y + h / 2 - 410) / 20, w / 10 - 1, h / 20 - 1) for x, y, w, h in boxes]
    columns = list(zip(*shares, strict=True))
    for column in columns:
        assert max(map(abs, column)) <= 0.2 + 1e-9 and max(column) > 0.199 and min(column) < -0.199
        assert sum(column) / 5000 == pytest.approx(0, abs=0.006)  # 3.7 standard errors of 0.2 / sqrt(3 x 5000)
        assert sum(u * u for u in column) / 5000 == pytest.approx(0.04 / 3, rel=0.05)
    for i in range(4):
        for j in range(i):
            assert sum(a * b for a, b in zip(columns[i], columns[j], strict=True)) / 5000 == pytest.approx(0, abs=0.0008)


def test_noise_of_40_is_that_of_20_twice_as_far():
    coco = one([40, 40, 10, 20])
    (x, y, w, h), (x2, y2, w2, h2) = (box_noise(coco, level=v, seed=5)["annotations"][0]["bbox"] for v in (0.2, 0.4))
    assert x2 + w2 / 2 - 45 == pytest.approx(2 * (x + w / 2 - 45)) and w2 - 10 == pytest.approx(2 * (w - 10))
    assert y2 + h2 / 2 - 50 == pytest.approx(2 * (y + h / 2 - 50)) and h2 - 20 == pytest.approx(2 * (h - 20))
    assert box_noise(coco, level=0)["annotations"][0]["bbox"] == pytest.approx([40, 40, 10, 20])


@pytest.mark.parametrize("box", [[0, 0, 10, 4], [90, 97, 10, 3], [0, 0, 100, 100], [50, 99.5, 0.5, 0.5]])
def test_noisy_boxes_lie_in_the_image_and_keep_an_area(box):
    for seed in range(200):
        x, y, w, h = box_noise(one(box), level=0.5, seed=seed)["annotations"][0]["bbox"]
        assert x >= 0 and y >= 0 and x + w <= 100 + 1e-9 and y + h <= 100 + 1e-9
        assert w >= min(1, box[2]) - 1e-9 and h >= min(1, box[3]) - 1e-9


def test_shares_of_images_are_rounded_up_and_nested():
    coco = made(images=150)
    parts = [labelled_share(coco, share=share, seed=1) for share in (0.01, 0.05, 0.1, 1.0)]
    assert [len(part["images"]) for part in parts] == [2, 8, 15, 150]  # 1.5, 7.5, 15 and 150, rounded up
    for small, large in zip(parts, parts[1:], strict=False):
        assert ids(small, "images") < ids(large, "images") and ids(small) < ids(large)
    assert ids(parts[0], "images") | ids(parts[0], "unlabelled") == ids(coco, "images")
    assert {row["image_id"] for row in parts[0]["annotations"]} == ids(parts[0], "images")
    assert ids(labelled_share(coco, share=0.05, seed=2), "images") != ids(parts[1], "images")
    assert len(labelled_share(made(images=3), share=0.01)["images"]) == 1


def test_sparse_shots_are_nested_and_counted_per_category_and_image():
    coco = made(images=5, objects=9, crowd=False)  # five of category 1 and four of category 2 in each
    parts = [sparse_shot(coco, k=k) for k in (1, 3, 5, 9)]
    assert [len(part["annotations"]) for part in parts] == [5 * 2, 5 * 6, 5 * 9, 5 * 9]
    assert all(ids(small) <= ids(large) for small, large in zip(parts, parts[1:], strict=False))
    assert {(r["image_id"], r["category_id"]) for r in parts[0]["annotations"]} == {(i, c) for i in range(1, 6) for c in (1, 2)}
    assert all(len(part["images"]) == 5 for part in parts)
    assert parts[2]["annotations"] == coco["annotations"]


def test_points_are_centres_and_tell_no_size():
    row = centre_points(made(images=1))["annotations"][2]  # box [10, 6, 6, 6]
    assert row == {"id": 3, "image_id": 1, "category_id": 1, "iscrowd": 0, "point": [13.0, 9.0]}


def test_boxes_round_points_are_equal_squares_cut_at_the_border():
    row = for_training(centre_points(one([40, 40, 10, 20])), side=8)["annotations"][0]
    assert row["bbox"] == [41, 46, 8, 8] and row["area"] == 64
    corner = for_training(centre_points(one([98, 0, 2, 2])), side=8)["annotations"][0]
    assert corner["bbox"] == [95, 0, 5, 5]  # centre (99, 1): 95 to 103 and -3 to 5


def test_zero_keeps_the_images_as_unlabelled_and_training_covers_them():
    coco = made(images=3)
    reduced = apply_regime(coco, "zero")
    assert reduced["images"] == reduced["annotations"] == [] and reduced["unlabelled"] == coco["images"]
    covered = for_training(reduced)
    assert covered["images"] == coco["images"] and "unlabelled" not in covered
    assert [(r["id"], r["image_id"], r["bbox"], r["iscrowd"]) for r in covered["annotations"]] == [
        (i, i, [0, 0, 80, 60], 1) for i in (1, 2, 3)
    ]


# what holds for all


@pytest.mark.parametrize("name", list(REGIMES))
def test_the_order_of_the_file_changes_nothing(name):
    coco, shuffled = made(), made()
    for key in ("images", "annotations"):
        random.Random(1).shuffle(shuffled[key])
    a, b = apply_regime(coco, name, seed=4), apply_regime(shuffled, name, seed=4)
    for key in ("images", "annotations", "unlabelled"):
        assert sorted(a.get(key, []), key=lambda r: r["id"]) == sorted(b.get(key, []), key=lambda r: r["id"])


@pytest.mark.parametrize("name", [name for name in REGIMES if not name.startswith("semi")])  # a share is drawn among all images
def test_other_images_change_nothing_of_an_image(name):
    coco = made()
    of_first = coco | {"images": coco["images"][:1], "annotations": [r for r in coco["annotations"] if r["image_id"] == 1]}
    whole = [row for row in apply_regime(coco, name)["annotations"] if row["image_id"] == 1]
    assert apply_regime(of_first, name)["annotations"] == whole


@pytest.mark.parametrize("name", list(REGIMES))
def test_ids_and_crowds_are_kept_and_the_input_is_not_touched(name):
    assert apply_regime(EMPTY, name)["annotations"] == [] and apply_regime(EMPTY, name)["info"] == {"regime": name, "seed": 0}
    coco = made()
    before = copy.deepcopy(coco)
    reduced = apply_regime(coco, name)
    assert coco == before and json.loads(json.dumps(reduced)) == reduced
    known = {row["id"]: row for row in coco["annotations"]}
    for row in reduced["annotations"]:
        assert all(row[key] == known[row["id"]][key] for key in ("image_id", "category_id"))
    labelled = ids(reduced, "images")
    crowds = [row for row in coco["annotations"] if row["iscrowd"] and row["image_id"] in labelled]
    assert [row for row in reduced["annotations"] if row["iscrowd"]] == crowds
    assert reduced["categories"] == coco["categories"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: box_noise(EMPTY, level=0.6), "level: expected a share from 0 to 0.5, got 0.6"),
        (lambda: labelled_share(EMPTY, share=0), "share: expected above 0"),
        (lambda: sparse_shot(EMPTY, k=0), "k: expected at least 1"),
        (lambda: for_training(EMPTY, side=0), "side: expected a positive number"),
        (lambda: apply_regime(EMPTY, "noise30"), "regime: expected one of full, noise20.*got 'noise30'"),
        (lambda: apply_regime({"images": []}, "full"), "coco: annotations: expected"),
        (lambda: apply_regime([], "zero"), "coco: images: expected"),
        (lambda: box_noise(one([1, 2, 0, 4]), level=0.2), "annotation 1: bbox: expected finite"),
        (lambda: centre_points(one([1, 2, 3])), "annotation 1: bbox: expected finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
