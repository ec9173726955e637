"""`dealkit.clicks`: drawn by hash, nested, saved, and refused by file, prompt and field."""

import copy
import hashlib
import json

import pytest

from dealkit.clicks import SETTINGS, check_clicks, clicks_hash, load_clicks, make_clicks, save_clicks


def ann(id: int, image_id: int, category_id: int, bbox: list[float], **more: int) -> dict:
    return {"id": id, "image_id": image_id, "category_id": category_id, "bbox": bbox} | more


def scene() -> dict:
    """Image 1: eight objects of category 2, one of category 1; image 2: one of category 2 and two ignored ones."""
    eight = [ann(10 + i, 1, 2, [10.0 * i, 20.0, 8.0, 4.0]) for i in range(8)]
    others = [
        ann(3, 1, 1, [0, 50, 10, 10]),
        ann(4, 2, 2, [0, 0, 10, 10]),
        ann(5, 2, 2, [50, 0, 10, 10], iscrowd=1),
        ann(6, 2, 1, [70, 0, 10, 10], ignore=1),
    ]
    images = [{"id": i, "width": 100, "height": 100} for i in (1, 2)]
    return {"images": images, "categories": [{"id": 1}, {"id": 2}], "annotations": eight + others}


def test_there_is_one_click_per_present_category_sorted_by_image_and_category():
    clicks = make_clicks(scene(), setting="1/category", seed=0)
    # category 1 of image 2 has only an ignored instance: nobody can click it
    assert [(p["image_id"], p["category_id"]) for p in clicks["prompts"]] == [(1, 1), (1, 2), (2, 2)]
    assert all(len(p["points"]) == len(p["labels"]) == len(p["annotation_ids"]) == 1 for p in clicks["prompts"])
    # [0, 50, 10, 10] -> centre (5, 55); the crowd annotation 5 is never drawn
    assert clicks["prompts"][0] == {
        "image_id": 1,
        "category_id": 1,
        "points": [[5.0, 55.0]],
        "labels": [1],
        "annotation_ids": [3],
    }
    assert clicks["prompts"][2]["annotation_ids"] == [4]


def test_clicks_of_one_seed_are_nested():
    ids = {s: make_clicks(scene(), setting=s, seed=4)["prompts"][1]["annotation_ids"] for s in SETTINGS}
    assert list(SETTINGS) == ["1/category", "3/category", "5/category", "1/instance"]  # paper: the first and the last
    assert [len(v) for v in ids.values()] == [1, 3, 5, 8]
    assert ids["5/category"][:3] == ids["3/category"] and ids["3/category"][:1] == ids["1/category"]
    assert ids["1/instance"][:5] == ids["5/category"] and sorted(ids["1/instance"]) == list(range(10, 18))


def test_a_draw_depends_on_its_own_image_and_category_only():
    whole = make_clicks(scene(), setting="3/category", seed=1)["prompts"][1]
    part = scene()
    part["annotations"] = [a for a in reversed(part["annotations"]) if (a["image_id"], a["category_id"]) == (1, 2)]
    assert make_clicks(part, setting="3/category", seed=1)["prompts"] == [whole]


def test_every_instance_is_drawn_about_equally_often():
    first = [make_clicks(scene(), setting="1/category", seed=s)["prompts"][1]["annotation_ids"][0] for s in range(800)]
    # 800 draws among 8: 100 each, standard deviation sqrt(800 * 1/8 * 7/8) = 9.4; five of them are 47
    assert all(53 <= first.count(i) <= 147 for i in range(10, 18))


def test_jitter_clicks_the_same_instances_inside_the_middle_half():
    centre, jitter = (make_clicks(scene(), setting="1/instance", seed=0, kind=k) for k in ("centre", "jitter"))
    boxes = {a["id"]: a["bbox"] for a in scene()["annotations"]}
    for a, b in zip(centre["prompts"], jitter["prompts"], strict=True):
        assert a["annotation_ids"] == b["annotation_ids"] and a["points"] != b["points"]
        for (px, py), i in zip(b["points"], b["annotation_ids"], strict=True):
            x, y, w, h = boxes[i]
            assert x + w / 4 <= px <= x + 3 * w / 4 and y + h / 4 <= py <= y + 3 * h / 4


def test_a_drawn_box_is_the_part_of_the_box_in_the_image():
    coco = scene() | {"annotations": [ann(1, 1, 1, [-1.0, 90.0, 21.0, 11.0]), ann(2, 1, 1, [1.0, 2.0, 0.333, 4.0])]}
    clicks = make_clicks(coco, setting="1/instance", seed=0, kind="box")
    [prompt] = check_clicks(clicks, coco)["prompts"]
    rows = dict(zip(prompt["annotation_ids"], zip(prompt["points"], prompt["sizes"], strict=True), strict=True))
    assert rows == {1: ([10.0, 95.0], [20.0, 10.0]), 2: ([1.17, 4.0], [0.33, 4.0])}  # x 0 to 20, y 90 to 100 of the first
    assert "sizes" not in make_clicks(coco, setting="1/instance", seed=0)["prompts"][0]


def test_a_box_over_the_border_is_clicked_in_its_visible_part_to_a_hundredth():
    for bbox, point in (([-1.0, 90.0, 21.0, 11.0], [10.0, 95.0]), ([1.0, 2.0, 0.333, 1 / 3], [1.17, 2.17])):
        coco = scene() | {"annotations": [ann(1, 1, 1, bbox)]}  # visible of the first: x 0 to 20, y 90 to 100
        assert make_clicks(coco, setting="1/category", seed=0)["prompts"][0]["points"] == [point]


def test_making_clicks_names_a_bad_argument_or_annotation():
    with pytest.raises(ValueError, match="setting: .*got '2/category'"):
        make_clicks(scene(), setting="2/category", seed=0)
    with pytest.raises(ValueError, match="kind: .*got 'edge'"):
        make_clicks(scene(), setting="1/category", seed=0, kind="edge")
    for bbox, said in (
        ([5, 5, 0, 5], "expected a positive width and height"),
        ([200, 5, 5, 5], ".* is outside the image"),
    ):
        with pytest.raises(ValueError, match=f"annotation 9: bbox: {said}"):
            make_clicks(scene() | {"annotations": [ann(9, 1, 1, bbox)]}, setting="1/category", seed=0)


def test_saved_clicks_load_as_they_were(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(scene()))
    clicks = make_clicks(tmp_path / "truth.json", setting="3/category", seed=2, kind="jitter")
    save_clicks(clicks, tmp_path / "new" / "clicks.json")
    assert load_clicks(tmp_path / "new" / "clicks.json", tmp_path / "truth.json") == clicks
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["clicks.json"]
    assert len((tmp_path / "new" / "clicks.json").read_text().splitlines()) == 2 + len(clicks["prompts"])
    none = make_clicks(scene() | {"annotations": []}, setting="1/category", seed=0)
    save_clicks(none, tmp_path / "none.json")
    assert none["prompts"] == [] and load_clicks(tmp_path / "none.json", scene()) == none


def test_a_refused_click_list_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="clicks.json: seed: expected a whole number"):
        save_clicks({"setting": "1/category", "seed": 0.5, "kind": "centre", "prompts": []}, tmp_path / "clicks.json")
    assert list(tmp_path.iterdir()) == []


def test_a_hash_names_the_clicks_and_not_their_spelling():
    clicks = make_clicks(scene(), setting="1/category", seed=0)
    respelt = json.loads(json.dumps(clicks).replace("5.0, 55.0", "5, 55"), object_pairs_hook=lambda kv: dict(reversed(kv)))
    assert respelt["prompts"][0]["points"] == [[5, 55]] and list(respelt) == list(reversed(clicks))
    assert clicks_hash(respelt) == clicks_hash(clicks)
    canonical = json.dumps(clicks, sort_keys=True, separators=(",", ":")).encode()
    assert clicks_hash(clicks) == hashlib.sha256(canonical).hexdigest()[:12]
    assert clicks_hash(make_clicks(scene(), setting="1/category", seed=1)) != clicks_hash(clicks)


def test_a_negative_point_needs_no_annotation():
    clicks = make_clicks(scene(), setting="1/category", seed=0)
    clicks["prompts"][0]["points"].append([90.0, 90.0])
    clicks["prompts"][0]["labels"].append(0)
    assert check_clicks(clicks, scene()) is clicks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("kind"), r"list.json: expected an object with setting, seed, kind, prompts, got"),
        (lambda c: c.update(setting="all"), "list.json: setting: expected one of"),
        (lambda c: c.update(kind=["centre"]), "list.json: kind: expected one of"),
        (lambda c: c.update(seed=True), "list.json: seed: expected a whole number, got True"),
        (lambda c: c.update(prompts={}), "list.json: prompts: expected a list, got dict"),
        (lambda c: c["prompts"][1].pop("points"), r"list.json: prompts\[1\].keys: expected image_id"),
        (lambda c: c["prompts"][1].update(image_id="1"), r"prompts\[1\].image_id: expected a whole number, got '1'"),
        (lambda c: c["prompts"][1].update(points=[]), r"prompts\[1\].points: expected a list of \[x, y\]"),
        (lambda c: c["prompts"][1].update(points=[[1.0]]), r"prompts\[1\].points: expected finite \[x, y\], got \[1.0\]"),
        (lambda c: c["prompts"][1].update(points=[[1.0, float("nan")]]), r"prompts\[1\].points: expected finite"),
        (lambda c: c["prompts"][1].update(sizes=[]), r"prompts\[1\].sizes: expected 1 of \[width, height\], got \[\]"),
        (lambda c: c["prompts"][1].update(sizes=[[4.0]]), r"prompts\[1\].sizes: expected finite \[width, height\]"),
        (lambda c: c["prompts"][1].update(sizes=[[4.0, -1.0]]), r"prompts\[1\].sizes: expected .* of 0 or more, got"),
        (lambda c: c["prompts"][1].update(labels=[1, 1]), r"prompts\[1\].labels: expected 1 of 1 or 0, got \[1, 1\]"),
        (lambda c: c["prompts"][1].update(labels=[-1]), r"prompts\[1\].labels: expected 1 of 1 or 0"),
        (lambda c: c["prompts"][1].update(labels=[0]), r"prompts\[1\].labels: expected at least one 1"),
        (lambda c: c["prompts"][1].update(annotation_ids=[]), r"prompts\[1\].annotation_ids: expected 1 different"),
        (lambda c: c["prompts"].append(c["prompts"][0]), r"prompts\[3\].image_id: image 1, category 1 is prompts\[0\] too"),
        (lambda c: c["prompts"][1].update(image_id=7), r"prompts\[1\].image_id: no image 7 in the ground truth"),
        (lambda c: c["prompts"][1].update(category_id=7), r"prompts\[1\].category_id: no category 7 in the ground truth"),
        (lambda c: c["prompts"][1].update(annotation_ids=[99]), r"prompts\[1\].annotation_ids\[0\]: no annotation 99"),
        (lambda c: c["prompts"][1].update(annotation_ids=[3]), r"prompts\[1\].annotation_ids\[0\]: 3 is of image 1, category 1"),
        (lambda c: c["prompts"][2].update(annotation_ids=[5]), r"prompts\[2\].annotation_ids\[0\]: 5 is crowd or ignored"),
        (lambda c: c["prompts"][1].update(points=[[101.0, 5.0]]), r"prompts\[1\].points\[0\]: \[101.0, 5.0\] is outside"),
    ],
)
def test_a_bad_click_list_is_refused_by_file_prompt_and_field(change, message, tmp_path):
    clicks = copy.deepcopy(make_clicks(scene(), setting="1/category", seed=0))
    change(clicks)
    (tmp_path / "list.json").write_text(json.dumps(clicks))
    with pytest.raises(ValueError, match=message) as error:
        load_clicks(tmp_path / "list.json", scene())
    assert "list.json" in str(error.value)
