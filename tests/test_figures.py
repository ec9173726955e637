"""Drawings: what is right, wrong and missed, and that each function draws what it is given."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from conftest import sample_of

from dealkit import figures
from dealkit.data.objects import read_pixels, read_table, summary
from dealkit.predict.detections import Detections

matplotlib.use("Agg")
IMAGE = torch.zeros(3, 40, 60, dtype=torch.uint8)
TWO = torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 20.0, 30.0]])


@pytest.fixture
def ax():
    (ax,) = figures.image_axes((40, 60))
    yield ax
    plt.close("all")


def found_of(boxes):
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes=tensor, scores=torch.linspace(0.9, 0.5, len(tensor)))


def test_a_second_box_on_a_found_object_is_false():
    sample = sample_of([[0, 0, 10, 10]])
    # IoU 1 and 8 x 10 / 100 = 0.8: both overlap enough, the object is taken by the stronger
    assert figures.verdicts_of(found_of([[0, 0, 10, 10], [0, 0, 8, 10]]), sample) == (["found", "false"], ["found"])


def test_the_stronger_box_takes_the_object_it_overlaps_most():
    sample = sample_of([[0, 0, 10, 10], [2, 0, 12, 10]])
    # box (2, 0, 12, 10): IoU 8 / 12 = 0.67 with the first object, 1 with the second
    of_boxes, of_objects = figures.verdicts_of(found_of([[2, 0, 12, 10]]), sample)
    assert of_boxes == ["found"] and of_objects == ["missed", "found"]


def test_an_overlap_just_under_the_bound_misses():
    sample = sample_of([[0, 0, 10, 10]])
    # 10 x 4.9 = 49 of 100: IoU 0.49; 10 x 5 = 50 of 100: IoU 0.5
    assert figures.verdicts_of(found_of([[0, 0, 10, 4.9]]), sample) == (["false"], ["missed"])
    assert figures.verdicts_of(found_of([[0, 0, 10, 5]]), sample) == (["found"], ["found"])


def test_crowd_is_neither_found_nor_missed():
    sample = sample_of([[0, 0, 10, 10], [20, 0, 30, 10]], crowd=[True, False])
    boxes, objects = figures.verdicts_of(found_of([[0, 0, 10, 10], [0, 0, 10, 9]]), sample)
    assert boxes == ["unclear", "unclear"] and objects == ["unclear", "missed"]


@pytest.mark.parametrize("boxes", [[], [[1, 1, 9, 9]]])
@pytest.mark.parametrize("found", [[], [[1, 1, 9, 9]]])
def test_verdicts_are_drawn_without_boxes_and_without_objects(ax, boxes, found):
    figures.draw_verdicts(ax, found_of(found), sample_of(boxes))
    hits = int(bool(boxes) and bool(found))
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [f"{hits} found", f"{len(found) - hits} false", f"{len(boxes) - hits} missed"]


def test_images_stand_in_pixels_with_the_origin_at_the_top_left(ax):
    figures.show_image(ax, IMAGE, "name")
    assert ax.get_xlim() == (0, 60) and ax.get_ylim() == (40, 0) and ax.get_title(loc="left") == "name"


def test_boxes_are_drawn_where_they_are(ax):
    figures.draw_boxes(ax, torch.tensor([[3.0, 4.0, 13.0, 9.0]]), label="one")
    corners = ax.collections[-1].get_paths()[0].vertices
    assert corners.min(0).tolist() == [3, 4] and corners.max(0).tolist() == [13, 9]


def test_a_map_covers_the_image_without_the_padding_of_its_cells(ax):
    # an image of 40 x 60 px, padded to 64 x 64, has 16 x 16 cells, of which 10 x 15 lie on the image
    figures.draw_map(ax, IMAGE, torch.ones(16, 16), label="objects")
    drawn = ax.images[-1]
    assert drawn.get_array().shape[:2] == (10, 15) and list(drawn.get_extent()) == [0, 60, 40, 0]
    figures.draw_map(ax, IMAGE, torch.ones(5, 8), stride=8, label="objects")  # the last column reaches over the border
    assert list(ax.images[-1].get_extent()) == [0, 64, 40, 0]
    assert ax.get_xlim() == (0, 60)


def test_queries_that_are_not_shown_are_dots(ax):
    figures.draw_queries(ax, IMAGE, TWO, TWO, torch.tensor([True, False]))
    dots = next(c for c in ax.collections if c.get_label() == "ends as nothing")
    assert dots.get_offsets().tolist() == [[15, 20]]


def test_values_stand_in_the_middle_of_their_boxes(ax):
    figures.draw_values(ax, IMAGE, torch.tensor([[0.0, 10.0, 4.0, 20.0]]), [0.5])
    assert [(t.get_position(), t.get_text()) for t in ax.texts] == [((2.0, 15.0), "0.50")]


def test_cosine_maps_stand_beside_their_image():
    maps = {"fine": torch.ones(10, 15), "coarse": -torch.ones(2, 2)}
    figure = figures.cosine_figure(IMAGE, torch.tensor([[5.0, 6.0]]), maps)
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in panels] == ["click", "fine", "coarse"]
    assert list(panels[2].images[-1].get_extent()) == [0, 64, 64, 0]
    assert not panels[2].images[-1].get_array()[..., 3].any()  # what is below 0 lets the image through


@pytest.mark.parametrize("worst", [None, 1])
def test_qualities_colour_their_objects_and_ring_the_worst(ax, worst):
    figures.draw_quality(ax, IMAGE, TWO, torch.tensor([0.9, 0.1]), worst)
    assert len(ax.collections[0].get_edgecolor()) == 2
    assert {ring.center for ring in ax.patches} == ({(15, 20)} if worst else set())


BOLTS = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [5, 30, 40, 6], 0)]


def test_a_window_lies_in_its_image_around_what_is_meant(make_coco):
    table = read_table([make_coco("a", [BOLTS, [], BOLTS[:1]])])
    _, axes = plt.subplots(1, 4)
    sides = [figures.draw_window(ax, table, *at) for ax, at in zip(axes, [(0,), (1,), (0, 1), (0, 2)], strict=True)]
    assert sides == [62, 70, 48, 70], "9 medians of 48 ** 0.5; the height of the image; at least 48; 2.5 times 40 is too much"
    (x1, y1), (x2, y2) = axes[2].collections[-1].get_paths()[0].get_extents().get_points().tolist()
    assert (x1, y1, x2, y2) == (21, 21, 27, 27), "window from (29, 19), held inside the image"


def test_the_wheel_names_every_source_also_of_a_domain_without_objects(make_coco):
    table = read_table([make_coco("a", [BOLTS]), make_coco("empty", [[]])], {"a": "infrared", "empty": "astronomy"})
    sums, colours = summary(table, read_pixels(table)[0]), {"infrared": "red", "astronomy": "blue"}
    figure = figures.domain_wheel(sums, table, {"infrared": 0}, colours)
    figure.canvas.draw()
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert {"infrared", "astronomy", "a  3", "empty  0"} <= set(texts)
    assert [len(ax.child_axes) for ax in figure.axes] == [1, 0], "a picture of the one domain that has one"
