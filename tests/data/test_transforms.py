"""`dealkit.data.transforms`: crops in which boxes and clicks move with the image, colours, and the network's input."""

import math

import pytest
import torch
from conftest import sample_of, seeded
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from dealkit.data.transforms import (
    PADDING,
    Placement,
    augment,
    draw_placement,
    move_boxes,
    move_points,
    pad_to,
    place,
    recolour,
    relight,
    to_input,
)


def painted(boxes, size_hw=(100, 100)):
    """A black image with a white rectangle per box."""
    image = torch.zeros(3, *size_hw, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = 255
    return sample_of(boxes, image=image)


def crowded(seed=0, n=30, size_hw=(90, 140)):
    generator = seeded(seed)
    height, width = size_hw
    xy = torch.rand(n, 2, generator=generator) * torch.tensor([width - 12.0, height - 12.0])
    wh = 0.3 + 11 * torch.rand(n, 2, generator=generator)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return sample_of(torch.cat([xy, xy + wh], 1).tolist(), image=image, labels=[i % 3 for i in range(n)])


BOX = [[10.0, 20.0, 14.0, 22.0]]  # 4 wide, 2 high, centre (12, 21), in 100 x 100


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"hflip": True}, [86.0, 20.0, 90.0, 22.0]),  # x -> 100 - x
        ({"vflip": True}, [10.0, 78.0, 14.0, 80.0]),  # y -> 100 - y
        ({"turns": 1}, [20.0, 86.0, 22.0, 90.0]),  # (x, y) -> (y, 100 - x)
        ({"turns": 2}, [86.0, 78.0, 90.0, 80.0]),  # (x, y) -> (100 - x, 100 - y)
        ({"turns": 3}, [78.0, 10.0, 80.0, 14.0]),  # (x, y) -> (100 - y, x)
        ({"hflip": True, "turns": 1}, [20.0, 10.0, 22.0, 14.0]),  # (x, y) -> (y, 100 - (100 - x)): the diagonal
        ({"left": 5, "top": 15}, [5.0, 5.0, 9.0, 7.0]),
        ({"left": -30, "top": -20}, [40.0, 40.0, 44.0, 42.0]),  # beyond the image
    ],
)
def test_flips_and_quarter_turns_move_the_box_and_its_pixels_alike(turn, expected):
    sample = painted([[10, 20, 14, 22]])
    out = place(sample, Placement(**{"left": 0, "top": 0, "side": 100, "size": 100} | turn))
    assert out.boxes.tolist() == [expected]
    x1, y1, x2, y2 = map(int, expected)
    assert (out.image[:, y1:y2, x1:x2] == 255).all()
    assert int((out.image[0] == 255).sum()) == 8  # the object's 4 x 2 pixels and no others


def test_a_crop_beyond_the_image_is_padded_and_the_box_moves_with_the_image():
    # The image's corner lies at (30, 20) in the crop.
    out = place(sample_of(BOX), Placement(left=-30, top=-20, side=200, size=200))
    assert out.boxes.tolist() == [[40.0, 40.0, 44.0, 42.0]]
    assert out.image[:, 0, 0].tolist() == list(PADDING)
    assert (out.image[:, 20:120, 30:130] == 50).all()
    assert int((out.image[0] == 50).sum()) == 100 * 100


def test_a_quarter_of_the_crops_end_with_the_image_and_objects_are_cut_there():
    sample, generator, cut = sample_of([[0.0, 0.0, 400.0, 400.0]], size_hw=(400, 400)), seeded(0), 0
    for _ in range(200):
        made = augment(sample, size=64, scale=(1.0, 1.0), colour=False, generator=generator)
        shown = (made.image != torch.tensor(PADDING)[:, None, None]).any(0)
        x1, y1, x2, y2 = made.boxes[0].long().tolist()
        assert shown[y1:y2, x1:x2].all() and int(shown.sum()) == (y2 - y1) * (x2 - x1) >= 33 * 33
        cut += not shown.all()
    assert 35 < cut < 65


def test_boxes_move_as_torchvision_moves_them_under_crop_resize_and_flip():
    sample = crowded(size_hw=(100, 100))
    theirs = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=(100, 100))
    theirs = F.crop(theirs, 20, 10, 60, 60)
    theirs = F.vertical_flip(F.horizontal_flip(F.resize(theirs, [90, 90])))
    ours = move_boxes(sample.boxes, Placement(left=10, top=20, side=60, size=90, hflip=True, vflip=True))
    # torchvision clips to the crop on the way: compare what lies inside.
    inside = (ours >= 0).all(1) & (ours <= 90).all(1)
    assert inside.sum() > 5
    torch.testing.assert_close(ours[inside], theirs.as_subclass(torch.Tensor)[inside])


@pytest.mark.parametrize("seed", range(12))
def test_a_click_at_the_centre_stays_at_the_centre_of_its_box(seed):
    sample = crowded(seed)
    centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
    placement = draw_placement(sample, size=48, scale=(0.4, 3.0), generator=seeded(seed))
    boxes = move_boxes(sample.boxes, placement)
    torch.testing.assert_close(move_points(centres, placement), (boxes[:, :2] + boxes[:, 2:]) / 2, atol=1e-3, rtol=0)
    out, whole = place(sample, placement), ((boxes >= 0) & (boxes <= 48)).all(1)  # a clipped box has another centre
    kept = out.boxes[torch.isin(out.annotation_ids, sample.annotation_ids[whole])]
    torch.testing.assert_close(move_points(centres, placement)[whole], (kept[:, :2] + kept[:, 2:]) / 2, atol=1e-3, rtol=0)


def test_an_object_cut_below_forty_percent_becomes_crowd_and_one_outside_is_dropped():
    boxes = [
        [48.0, 0.0, 58.0, 10.0],  # 2 of 10 columns left
        [46.0, 20.0, 56.0, 30.0],  # 4 of 10: exactly 40 %, an object
        [50.0, 40.0, 60.0, 50.0],  # touches the crop without area
        [1.0, 1.0, 9.0, 9.0],
    ]
    out = place(sample_of(boxes, crowd=[False, False, False, True]), Placement(left=0, top=0, side=50, size=50))
    assert out.annotation_ids.tolist() == [1, 2, 4]
    assert out.crowd.tolist() == [True, False, True]  # and crowd stays crowd
    assert out.boxes[0].tolist() == [48.0, 0.0, 50.0, 10.0]


def test_an_object_that_shrinks_below_a_pixel_becomes_crowd_and_a_sub_pixel_box_at_full_size_does_not():
    sample = sample_of([[10.0, 10.0, 11.5, 14.0]])
    assert place(sample, Placement(left=0, top=0, side=100, size=50)).crowd.tolist() == [True]  # 0.75 px wide
    tiny = sample_of([[10.25, 10.25, 10.75, 10.75]])
    out = place(tiny, Placement(left=0, top=0, side=100, size=100))
    assert out.crowd.tolist() == [False] and out.boxes.tolist() == [[10.25, 10.25, 10.75, 10.75]]


@pytest.mark.parametrize("size_hw", [(90, 140), (20, 300), (5, 5)])
def test_every_augmented_sample_is_uint8_of_the_asked_size_with_all_boxes_inside(size_hw):
    sample = crowded(size_hw=(90, 140)) if size_hw == (90, 140) else sample_of([[1.0, 1.0, 4.0, 4.0]], size_hw=size_hw)
    for seed in range(20):
        out = augment(sample, size=40, generator=seeded(seed))
        assert out.image.dtype == torch.uint8 and out.image.shape == (3, 40, 40) and out.image.is_contiguous()
        assert (out.boxes >= 0).all() and (out.boxes <= 40).all()
        assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
        assert len(out.boxes) == len(out.labels) == len(out.crowd) == len(out.annotation_ids)
        assert (out.labels == sample.labels[out.annotation_ids - 1]).all()
        assert out.image_id == 7 and out.source == "made"


def test_the_drawn_object_lies_fully_inside_its_crop_nine_times_in_ten():
    # One object far in a corner of a large image: 90 % of the crops are around it, the others hardly ever hold it.
    sample = sample_of([[950.0, 950.0, 960.0, 960.0]], size_hw=(1000, 1000))
    generator = seeded()
    held = 0
    for _ in range(300):
        box = move_boxes(sample.boxes, draw_placement(sample, size=64, scale=(1.0, 1.0), generator=generator))
        held += bool(((box >= 0) & (box <= 64)).all())
    assert 255 <= held <= 288  # 270 of 300 +- 3 standard deviations of 5.2
    crowd = sample_of([[950.0, 950.0, 960.0, 960.0]], size_hw=(1000, 1000), crowd=[True])  # never the one drawn around
    lefts = [draw_placement(crowd, size=64, scale=(1.0, 1.0), generator=generator).left for _ in range(60)]
    assert sum(left >= 896 for left in lefts) < 15  # 4 % by chance


def test_a_rare_category_is_drawn_as_often_as_a_common_one():
    boxes = [[10.0 * i, 0.0, 10.0 * i + 5, 5.0] for i in range(30)] + [[500.0, 500.0, 505.0, 505.0]]
    sample = sample_of(boxes, size_hw=(600, 600), labels=[0] * 30 + [1])
    generator = seeded()
    tops = [draw_placement(sample, size=20, scale=(1.0, 1.0), generator=generator).top for _ in range(200)]
    assert 60 <= sum(480 <= top <= 500 for top in tops) <= 125  # 90 % of one half, and 3 standard deviations


def test_the_same_generator_state_gives_the_same_crop_and_the_global_one_is_untouched():
    sample, before = crowded(), torch.get_rng_state()
    image, boxes = sample.image.clone(), sample.boxes.clone()
    first, again = ([augment(sample, size=40, generator=g) for _ in range(12)] for g in (seeded(3), seeded(3)))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a.image, b.image) and torch.equal(a.boxes, b.boxes) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].image, augment(sample, size=40, generator=seeded(4)).image)
    assert torch.equal(sample.image, image) and torch.equal(sample.boxes, boxes)  # the sample itself is left alone


def test_padding_keeps_its_colour_and_becomes_zero_in_the_network_input():
    for seed in range(10):
        out = augment(sample_of(BOX, size_hw=(20, 20)), size=60, scale=(1.0, 1.0), generator=seeded(seed))
        beside = (out.image == torch.tensor(PADDING)[:, None, None]).all(0)
        assert int(beside.sum()) >= 60 * 60 - 20 * 20
        assert to_input(out.image)[:, beside].abs().max() < 0.01


def test_colours_change_only_when_asked():
    sample = crowded(size_hw=(40, 40), n=3)
    plain = [augment(sample, size=40, scale=(1.0, 1.0), colour=False, generator=seeded(s)).image for s in range(20)]
    colours = {*map(tuple, sample.image.flatten(1).T.tolist()), PADDING}
    assert all(set(map(tuple, image.flatten(1).T.tolist())) <= colours for image in plain)
    coloured = [recolour(sample.image, generator=seeded(s)) for s in range(60)]
    changed = sum(not torch.equal(image, sample.image) for image in coloured)
    assert 45 <= changed <= 59  # nine in ten
    grey = sum(float(image.float().std(0).mean()) < 1 for image in coloured)
    assert 1 <= grey <= 20  # 15 %, some of them with noise on top


@pytest.mark.parametrize(("background", "thing"), [(235, 190), (20, 60), (128, 160), (0, 30)])
def test_a_faint_object_is_never_lost_in_white_or_black(background, thing):
    image = torch.full((3, 24, 24), background, dtype=torch.uint8)
    image[:, 8:16, 8:16] = thing
    for seed in range(100):
        assert recolour(image[:, :1, :1], generator=seeded(seed)).shape == (3, 1, 1)
        out = recolour(image, generator=seeded(seed)).float()
        beside = torch.cat([out[:, 10:14, 4:7], out[:, 10:14, 17:20]], dim=2)  # on both sides: the light falls from one of them
        assert (out[:, 10:14, 10:14].mean() - beside.mean()).abs() > 6  # of 30 to 45: contrast 0.6 x brightness 0.6 x light 0.67


@pytest.mark.parametrize(("size", "scale"), [(0, (1.0, 1.0)), (32, (0.0, 1.0)), (32, (2.0, 1.0)), (32, (1.0, float("inf")))])
def test_a_wrong_size_or_scale_is_named(size, scale):
    with pytest.raises(ValueError, match=rf"size {size}, scale \({scale[0]}"):
        augment(sample_of(BOX), size=size, scale=scale, generator=seeded())


def test_input_is_normalised_by_hand_worked_numbers():
    # (128 / 255 - 0.485) / 0.229 = 0.0741; (0 - 0.456) / 0.224 = -2.0357; (1 - 0.406) / 0.225 = 2.6400
    image = torch.tensor([128, 0, 255], dtype=torch.uint8)[:, None, None].repeat(1, 2, 3)
    out = to_input(image)
    assert out.dtype == torch.float32 and out.shape == (3, 2, 3)
    torch.testing.assert_close(out[:, 1, 2], torch.tensor([0.0741, -2.0357, 2.6400]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(4, 4).byte()])
def test_an_input_that_is_not_an_rgb_uint8_image_is_refused(image):
    with pytest.raises(ValueError, match=r"expected \(3, H, W\) uint8"):
        to_input(image)


def test_images_of_different_sizes_are_padded_to_a_common_multiple():
    a, b = torch.ones(3, 33, 20), torch.full((3, 8, 64), 2.0)
    batch, sizes = pad_to([a, b])
    assert batch.shape == (2, 3, 64, 64) and sizes == [(33, 20), (8, 64)]
    assert torch.equal(batch[0, :, :33, :20], a) and torch.equal(batch[1, :, :8, :64], b)
    assert batch.sum() == a.sum() + b.sum()  # all else is zero
    with pytest.raises(ValueError, match="got 0 images"):
        pad_to([])


def test_objects_are_lit_one_by_one_and_nothing_else_changes():
    image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5, 15, 15], [30.0, 20, 50, 30], [-4.0, 30, 4, 38]])
    out = relight(image, boxes, generator=seeded(2))
    centres = [int(out[0, 10, 10]), int(out[0, 25, 40])]
    assert len(set(centres)) == 2 and all(100 * math.exp(-0.29) - 1 <= c <= 100 * math.exp(0.29) + 1 for c in centres)
    assert (out[:, 5:15, 5] == 100).sum() >= 18  # of 30 values at the side of a box only those in its middle are lit
    outside = torch.ones(40, 60, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes.long().tolist():
        outside[max(y1, 0) : y2, max(x1, 0) : x2] = False
    assert (out[:, outside] == 100).all()
    assert torch.equal(relight(image, torch.zeros(0, 4), generator=seeded(2)), image)
