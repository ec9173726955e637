"""`dealkit.prompts`: prompt sets that are checked and padded, and simulated clicks inside their boxes."""

from dataclasses import replace

import pytest
import torch
from conftest import seeded

from dealkit.prompts import PointPrompts, simulate_clicks, stack_prompts


def prompts(points, labels, index=(0,)) -> PointPrompts:
    return PointPrompts(
        points=torch.tensor(points), labels=torch.tensor(labels), image_index=torch.tensor(index, dtype=torch.int64)
    )


def test_prompt_sets_of_different_length_are_padded():
    one, two = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    out = stack_prompts([(one, torch.tensor([1])), (two, torch.tensor([0, 1]))], [1, 0])
    assert out.points.tolist() == [[[1, 2], [0, 0]], [[3, 4], [5, 6]]]
    assert out.labels.tolist() == [[1, -1], [0, 1]]
    assert out.image_index.tolist() == [1, 0] and len(out) == 2
    assert out.to("cpu").points.dtype == torch.float32 and out.labels.dtype == out.image_index.dtype == torch.int64
    assert stack_prompts([], []).points.shape == (0, 0, 2)


@pytest.mark.parametrize(
    ("points", "labels", "index", "message"),
    [
        ([[1.0, 2.0]], [[1]], (0,), r"points: expected \(N, P, 2\) float32"),
        ([[[1, 2]]], [[1]], (0,), "float32, got .* torch.int64"),
        ([[[1.0, 2.0]]], [[1, 1]], (0,), r"labels: expected \(1, 1\) int64"),
        ([[[1.0, 2.0]]], [[1.0]], (0,), "labels: .*torch.float32"),
        ([[[1.0, 2.0]]], [[1]], (0, 0), r"image_index: expected \(1,\)"),
        ([[[1.0, 2.0]], [[1.0, 2.0]]], [[1], [0]], (0, 0), "prompt set 1: no positive point"),
        ([[[1.0, 2.0]], [[1.0, 2.0]]], [[1], [-1]], (0, 0), "prompt set 1: no positive point"),
        ([[[1.0, 2.0]]], [[2]], (0,), "prompt set 0: a label that is not 1, 0 or -1"),
        ([[[1.0, float("nan")]]], [[1]], (0,), "prompt set 0: a point that is not finite"),
        ([[[1.0, 2.0]]], [[1]], (-1,), "prompt set 0: a negative image_index"),
    ],
)
def test_a_bad_prompt_set_is_named(points, labels, index, message):
    with pytest.raises(ValueError, match=message):
        prompts(points, labels, index)


def test_sizes_are_padded_with_zeros_and_of_the_form_of_the_points():
    one, two = (torch.tensor([[1.0, 2.0]]), torch.tensor([1])), (torch.tensor([[3.0, 4.0], [5.0, 6.0]]), torch.tensor([1, 0]))
    out = stack_prompts([one, two], [0, 0], [torch.tensor([[8.0, 9.0]]), torch.zeros(2, 2)])
    assert out.to("cpu").sizes.tolist() == [[[8, 9], [0, 0]], [[0, 0], [0, 0]]]
    assert stack_prompts([one], [0]).sizes.tolist() == [[[0, 0]]]
    assert len(stack_prompts([(torch.zeros(0, 2), torch.zeros(0).long())], [0], embedded=True)) == 1
    for sizes, message in (
        (torch.zeros(2, 1, 2), r"sizes: expected \(2, 2, 2\) float32, got \(2, 1, 2\)"),
        (torch.zeros(2, 2, 2, dtype=torch.int64), "sizes: expected .* torch.int64"),
        (torch.tensor([[[8.0, 9.0], [0, 0]], [[0, -1], [0, 0]]]), "prompt set 1: a size that is negative or not finite"),
        (torch.tensor([[[8.0, 9.0], [0, float("nan")]], [[0, 0], [0, 0]]]), "prompt set 0: a size that is negative or not"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(out, sizes=sizes)


def test_stacking_names_the_set_of_wrong_shape():
    good = (torch.zeros(1, 2), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"prompt set 1: expected points \(p, 2\) and labels \(p,\)"):
        stack_prompts([good, (torch.zeros(2, 2), torch.tensor([1]))], [0, 0])
    with pytest.raises(ValueError, match="image_index: expected one entry per prompt set"):
        stack_prompts([good], [0, 0])


def test_click_stays_inside_its_box():
    # the second box is a hundredth of a pixel wide at x = 4000, where float32 steps are 0.00024
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [4000.0, 50.0, 4000.01, 54.0]]).repeat(500, 1)
    xy = simulate_clicks(boxes, spread=1.0, generator=seeded(0))
    assert (xy >= boxes[:, :2]).all() and (xy <= boxes[:, 2:]).all()


def test_spread_is_the_share_of_the_half_extent():
    # centre (50, 20), half-extents (10, 4); at spread 0.5 a click strays at most 5 and 2
    boxes = torch.tensor([[40.0, 16.0, 60.0, 24.0]]).repeat(2000, 1)
    off = (simulate_clicks(boxes, spread=0.5, generator=seeded(0)) - torch.tensor([50.0, 20.0])).abs()
    assert (off <= torch.tensor([5.0, 2.0])).all() and (off.max(0).values > torch.tensor([4.9, 1.9])).all()


def test_same_generator_seed_gives_the_same_clicks():
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    first, second = (simulate_clicks(boxes, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert simulate_clicks(torch.zeros(0, 4)).shape == (0, 2)


def test_simulated_clicks_refuse_a_cxcywh_box_and_a_spread_above_one():
    with pytest.raises(ValueError, match=r"boxes_xyxy\[0\]: not xyxy"):
        simulate_clicks(torch.tensor([[50.0, 60.0, 4.0, 4.0]]))
    with pytest.raises(ValueError, match="spread: expected 0 to 1, got 1.5"):
        simulate_clicks(torch.zeros(0, 4), spread=1.5)
