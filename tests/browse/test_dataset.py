"""FiftyOne: what a data set holds, what a second build does, and the App in a browser without a screen."""

import ast
import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from dealkit.browse import dataset as browse
from dealkit.data.scenes.scene import EVAL_SEED, scene_factors, write_coco
from dealkit.files import PROJECT_ROOT

BOLT, NUT = 5, 9
OBJECTS = [
    [(BOLT, [10, 12, 6, 8], 0), (BOLT, [50, 40, 6, 6], 0), (NUT, [70, 10, 15, 20], 0)],
    [],
    [(NUT, [5, 5, 40, 6], 1)],
]


def counts(build):
    return tuple(build.images[what] for what in ("added", "updated", "removed", "unchanged"))


def edit(file, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_every_object_has_its_fields(fo, make_coco, name):
    file = make_coco("parts", OBJECTS)
    made = browse.build_dataset([file], name=name, domains={"parts": "industrial inspection"})
    assert counts(made) == (3, 0, 0, 0) and made.objects == 4
    sample = made.dataset.match(fo.ViewField("image_id") == 1).first()
    assert (sample.source, sample.domain, sample.metadata.width) == ("parts", "industrial inspection", 90)
    first, second, third = sample.objects.detections
    assert (first.label, first.annotation_id, first.size_bin, first.iscrowd) == ("bolt", 1, "vt", 0)
    assert first.size_px == pytest.approx(48**0.5, abs=0.01)
    assert first.bounding_box == pytest.approx([10 / 90, 12 / 70, 6 / 90, 8 / 70])
    # centres (13, 16), (53, 43), (77.5, 20): 48.3, 64.6 and 33.6 px apart
    assert [d.density for d in (first, second, third)] == [0, 0, 0]
    assert (third.label, third.size_bin, third.domain, third.source) == ("nut", "s", "industrial inspection", "parts")
    assert all(0.1 < d.contrast < 0.5 for d in (first, second, third)), "one channel of three is bright"
    crowd = made.dataset.match(fo.ViewField("image_id") == 3).first().objects.detections[0]
    assert (crowd.iscrowd, crowd.suspicious) == (1, "thin")
    assert made.dataset.persistent and len(made.dataset.match(fo.ViewField("image_id") == 2).first().objects.detections) == 0


def test_an_image_record_may_name_source_and_domain(fo, make_coco, name):
    file = make_coco("merged", OBJECTS)
    edit(file, lambda data: data["images"][0].update(source="visdrone", domain="unmanned aerial vehicle", split="val"))
    made = browse.build_dataset([file], name=name)
    assert made.dataset.values("source") == ["visdrone", "merged", "merged"]
    assert made.dataset.values("domain") == ["unmanned aerial vehicle", "not stated", "not stated"]
    assert made.dataset.values("split") == ["val", None, None]


def test_a_second_build_reads_only_what_has_changed(fo, make_coco, name, monkeypatch):
    a, b = make_coco("a", OBJECTS), make_coco("b", OBJECTS)
    made = browse.build_dataset([a, b], name=name, batch=2)
    ids, tagged = made.dataset.values("id"), made.dataset.first()
    tagged.tags.append("mine")
    tagged.save()
    opened = []
    read = browse.image_contrast
    monkeypatch.setattr(browse, "image_contrast", lambda table, i: opened.append(i) or read(table, i))
    assert counts(browse.build_dataset([a, b], name=name)) == (0, 0, 0, 6) and not opened

    edit(a, lambda data: data["annotations"][0].update(bbox=[10, 12, 20, 8]))
    made = browse.build_dataset([a, b], name=name)
    assert counts(made) == (0, 1, 0, 5) and opened == [0]
    assert made.dataset.values("id") == ids and made.dataset.first().tags == ["mine"]
    assert made.dataset.first().objects.detections[0].size_px == pytest.approx(160**0.5, abs=0.01)

    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(b.parent / "images" / "0.png")
    assert counts(browse.build_dataset([a, b], name=name)) == (0, 1, 0, 5)
    made = browse.build_dataset([b], name=name)
    assert counts(made) == (0, 0, 3, 3) and made.dataset.values("source") == ["b"] * 3


def test_a_build_that_was_stopped_goes_on(fo, make_coco, name, monkeypatch):
    file, write = make_coco("parts", OBJECTS), browse._write

    def stop(dataset, ids, *rest):
        if len(dataset) == 3:
            raise KeyboardInterrupt
        write(dataset, ids, *rest)

    monkeypatch.setattr(browse, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        browse.build_dataset([file], name=name, batch=1)
    monkeypatch.setattr(browse, "_write", write)
    made = browse.build_dataset([file], name=name)
    assert counts(made) == (0, 1, 0, 2)
    assert made.dataset.count("objects.detections") == 4


def test_saved_views_keep_what_they_say(fo, make_coco, name):
    crowd = [(BOLT, [x, y, 5, 5], 0) for x in (10, 20, 30) for y in (10, 20)]
    made = browse.build_dataset([make_coco("parts", [*OBJECTS, crowd])], name=name)
    views = {view: made.dataset.load_saved_view(view) for view in made.dataset.list_saved_views()}
    assert sorted(views) == sorted(browse.VIEWS)
    kept = {view: shown.count("objects.detections") for view, shown in views.items()}
    # 2 bolts of the first image and 6 of the last are under 8 px; each of the 6 has 5 others within 32 px; one bar is thin
    assert (kept["very tiny"], kept["crowded"], kept["suspicious boxes"], kept["low contrast"]) == (8, 6, 1, 0)
    assert len(views["very tiny"]) == 2


def test_contrast_ranks_objects_as_they_were_drawn(fo, tmp_path, name):
    from scipy.stats import spearmanr

    made = browse.build_dataset([write_coco(tmp_path / "scenes", 6, seed=EVAL_SEED)], name=name)
    measured = [v for values in made.dataset.values("objects.detections.contrast") for v in values]
    drawn = [v for i in range(6) for v in scene_factors(i, seed=EVAL_SEED)["objects"]["contrast"]]
    assert spearmanr(measured, drawn)[0] > 0.7


def test_a_broken_file_is_named(fo, make_coco, name):
    file = make_coco("parts", OBJECTS)
    edit(file, lambda data: data["images"][0].update(width=91))
    with pytest.raises(ValueError, match=r"0\.png: image 1: width, height: stated 91 x 70, the file has 90 x 70"):
        browse.build_dataset([file], name=name)


def test_the_app_shows_copies_of_images_that_no_browser_shows(fo, make_coco, name, told):
    file = make_coco("parts", OBJECTS)
    images = file.parent / "images"
    Image.open(images / "0.png").save(images / "0.tif")
    edit(file, lambda data: data["images"][0].update(file_name="0.tif"))
    made = browse.build_dataset([file], name=name)
    path, *others = made.dataset.values(browse.SHOWN)
    assert others == [None, None] and made.dataset.app_config.media_fallback
    assert made.dataset.app_config.grid_media_field == made.dataset.app_config.modal_media_field == browse.SHOWN
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(images / "0.png")))
    assert f"no browser shows 1 images such as {images / '0.tif'}: the App shows PNG copies in" in told()
    assert counts(browse.build_dataset([file], name=name)) == (0, 0, 0, 3)

    os.unlink(path)  # the folder was cleared
    assert counts(browse.build_dataset([file], name=name)) == (0, 1, 0, 2) and os.path.isfile(path)
    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(images / "0.tif")
    made = browse.build_dataset([file], name=name)
    assert counts(made) == (0, 1, 0, 2) and not os.path.isfile(path)
    assert not np.asarray(Image.open(made.dataset.values(browse.SHOWN)[0])).any()


def test_an_image_of_two_files_is_refused(fo, make_coco, name):
    file = make_coco("parts", OBJECTS)
    other = shutil.copy(file, file.parent / "val.json")
    with pytest.raises(ValueError, match=r"val\.json: images: file_name: .*0\.png is already an image of .*annotations\.json"):
        browse.build_dataset([file, other], name=name)


def test_a_data_set_made_elsewhere_is_left_alone(fo, tiny_coco, name):
    fo.Dataset(name)
    with pytest.raises(ValueError, match="that was not built here: choose another name"):
        browse.build_dataset([tiny_coco], name=name)


def test_without_fiftyone_the_message_says_how_to_get_it(monkeypatch, tiny_coco):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ValueError, match=r"FiftyOne is not installed: `pip install -e \.\[fiftyone\]`"):
        browse.build_dataset([tiny_coco])


def test_fiftyone_is_imported_by_functions_only():
    for file in (PROJECT_ROOT / "dealkit" / "browse").glob("*.py"):
        top = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not [node.lineno for node in top if "fiftyone" in ast.unparse(node).split()], file.name


@pytest.mark.slow
def test_the_app_shows_boxes_and_a_saved_view_filters(fo, browser, serve, app_images, colour_pixels, name, tmp_path):
    address, _ = serve(write_coco(tmp_path / "scenes", 8, seed=EVAL_SEED), name)
    dataset = fo.load_dataset(name)
    dataset.reload()
    tiny = dataset.load_saved_view("very tiny")
    assert 0 < len(tiny) < len(dataset) == 8
    drawn = {}
    for view, images in (("", 8), ("very tiny", len(tiny))):
        page = app_images(address, view, images)
        shot = tmp_path / "shot.png"
        page.screenshot(path=shot, timeout=60_000)
        drawn[view] = colour_pixels(shot, browse.COLOURS, near=12)
    others = {view: sum(pixels for size_bin, pixels in of_view.items() if size_bin != "vt") for view, of_view in drawn.items()}
    assert drawn["very tiny"]["vt"] > 50 and others[""] > 500 and others["very tiny"] < 0.1 * others[""]
