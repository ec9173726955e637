"""`baselines.templates`: template matching, and the estimate of a box from a click."""

import numpy as np
import pytest
import torch

from dealkit.baselines.templates import cut_template, estimate_box, match_box


def with_patches(patches, size_hw=(60, 90), seed=0):
    """A faint noise image (3, H, W) uint8 with grey patches {(x, y): (h, w) array}."""
    image = np.random.default_rng(seed).integers(80, 90, size_hw).astype(np.uint8)
    for (x, y), patch in patches.items():
        image[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return torch.from_numpy(image).expand(3, -1, -1).clone()


ELL = np.array([[200] * 4 + [20] * 4] * 5 + [[200] * 8] * 5, np.uint8)  # 10 high, 8 wide, no symmetry


def found_at(found, least=0.9):
    return sorted(tuple(round(v) for v in box) for box in found.above(least).boxes.tolist())


def test_copies_of_the_example_are_found_where_they_are():
    image = with_patches({(10, 10): ELL, (40, 30): ELL, (70, 5): ELL})
    found = match_box(image, torch.tensor([[10.0, 10.0, 18.0, 20.0]]))
    assert found_at(found) == [(10, 10, 18, 20), (40, 30, 48, 40), (70, 5, 78, 15)]
    assert found.scores[0] == 1 and (found.scores[:-1] >= found.scores[1:]).all()


def test_turned_and_scaled_copies_need_turns_and_scales():
    large = np.kron(ELL, np.ones((2, 2), np.uint8))
    image = with_patches({(8, 8): ELL, (40, 10): np.rot90(ELL), (60, 30): large})
    box = torch.tensor([[8.0, 8.0, 16.0, 18.0]])
    assert found_at(match_box(image, box)) == [(8, 8, 16, 18)]
    assert found_at(match_box(image, box, turns=4)) == [(8, 8, 16, 18), (40, 10, 50, 18)]
    assert (60, 30, 76, 50) in found_at(match_box(image, box, scales=(1.0, 2.0)), 0.8)


def test_a_cut_template_is_the_image_and_its_quarter_turns():
    grey = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    crop = grey[4:10, 5:9]
    turned = {k: cut_template(grey, [5, 4, 9, 10], angle=k * np.pi / 2) for k in range(4)}
    assert any(np.allclose(turned[1][0], np.rot90(crop, k), atol=1e-5) for k in (1, 3))
    np.testing.assert_allclose(turned[0][0], crop, atol=1e-6)
    np.testing.assert_allclose(turned[2][0], np.rot90(crop, 2), atol=1e-5)
    assert turned[0][1] == (4, 6) and turned[1][1] == pytest.approx((6, 4))
    # a margin of a quarter: 4 + 2 x 1 wide, 6 + 2 x 2 high (1.5 rounds to 2)
    wide, size_wh = cut_template(grey, [5, 4, 9, 10], margin=0.25)
    assert wide.shape == (10, 6) and size_wh == (4, 6)
    np.testing.assert_allclose(wide, grey[2:12, 4:10], atol=1e-6)


def test_an_eighth_turn_has_the_size_of_the_turned_ellipse():
    _, size_wh = cut_template(np.zeros((50, 50), np.float32), [10, 10, 16, 18], angle=np.pi / 4)
    assert size_wh == pytest.approx((50**0.5, 50**0.5))  # sqrt((6^2 + 8^2) / 2)


def test_what_cannot_be_matched_returns_the_example_alone():
    flat = torch.full((3, 40, 40), 90, dtype=torch.uint8)
    box = torch.tensor([[5.0, 5.0, 15.0, 15.0]])
    assert match_box(flat, box).boxes.tolist() == box.tolist()
    tiny = torch.tensor([[5.0, 5.0, 6.0, 6.0]])
    assert match_box(with_patches({}), tiny, margin=0.0).boxes.tolist() == tiny.tolist()
    whole = torch.tensor([[0.0, 0.0, 90.0, 60.0]])
    assert match_box(with_patches({}), whole, scales=(2.0,)).boxes.tolist() == whole.tolist()
    assert len(match_box(flat, torch.zeros(0, 4))) == 0


def test_several_examples_are_pooled_and_no_more_returned_than_asked_for():
    image = with_patches({(10, 10): ELL, (40, 30): ELL, (70, 5): np.rot90(ELL)})
    boxes = torch.tensor([[10.0, 10.0, 18.0, 20.0], [70.0, 5.0, 80.0, 13.0]])
    assert found_at(match_box(image, boxes)) == [(10, 10, 18, 20), (40, 30, 48, 40), (70, 5, 80, 13)]
    assert len(match_box(image, boxes, least=0.0, max_dets=4)) == 4


@pytest.mark.parametrize("side", [6, 16, 32])
def test_a_click_on_a_square_estimates_its_size(side):
    image = with_patches({(20, 10): np.full((side, side), 230, np.uint8)})
    box = estimate_box(image, [20 + side / 2, 10 + side / 2])
    assert box.tolist() == [20, 10, 20 + side, 10 + side]


def test_an_estimate_at_the_border_lies_in_the_image():
    for xy in ([0, 0], [90, 60], [0.5, 59.5]):
        box = estimate_box(with_patches({}), xy)
        assert (box[:2] >= 0).all() and box[2] <= 90 and box[3] <= 60 and (box[2:] > box[:2]).all()
