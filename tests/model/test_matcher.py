"""`dealkit.model.matcher`: costs by hand, brute force, clicks bound to their objects, and empty sets."""

import itertools

import pytest
import torch
from torchvision.ops import generalized_box_iou

from dealkit.boxes import to_xyxy
from dealkit.model.matcher import hungarian_match, relative_l1

NO_CLICK = torch.full((1,), -1)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def pairs(queries, targets, *, scores=None, valid=None, clicked=NO_CLICK):
    logits = torch.zeros(len(queries)) if scores is None else torch.tensor(scores).logit()
    valid = torch.ones(len(queries), dtype=torch.bool) if valid is None else torch.tensor(valid)
    rows, columns = hungarian_match(queries, logits, valid, targets, clicked)
    assert rows.dtype == columns.dtype == torch.int64 and len(rows) == len(columns)
    return sorted(zip(rows.tolist(), columns.tolist(), strict=True))


@pytest.mark.parametrize(
    ("pred", "target", "expected"),
    [
        ([10, 10, 8, 8], [10, 10, 8, 8], 0.0),
        ([12, 9, 8, 16], [10, 10, 8, 16], 2 / 8 + 1 / 16),  # 2 px of 8 wide, 1 px of 16 high
        ([10, 10, 16, 8], [10, 10, 8, 8], 0.6931472),  # twice as wide: ln 2
        ([10, 10, 4, 2], [10, 10, 8, 8], 3 * 0.6931472),  # half as wide, a quarter as high: ln 2 + ln 4
        ([11, 10, 2, 2], [10, 10, 2, 2], 0.25),  # 2 px count as 4: 1 px of 4
        ([10, 10, 4, 2], [10, 10, 2, 2], 0.5 * 0.6931472),  # and so does a size: ln 2 x 2 / 4
        ([10, 10, 0.1, 8], [10, 10, 8, 8], 2.7725887),  # sides under half a pixel count as half: ln 16
    ],
)
def test_the_relative_distance_is_in_units_of_the_target(pred, target, expected):
    assert relative_l1(torch.tensor(pred), torch.tensor(target)).item() == pytest.approx(expected, abs=1e-5)


def test_the_relative_distance_is_the_same_for_a_box_ten_times_as_large():
    pred, target = boxes([12, 9, 8, 16]), boxes([10, 10, 9, 14])
    torch.testing.assert_close(relative_l1(10 * pred, 10 * target), relative_l1(pred, target))
    assert relative_l1(torch.rand(3, 1, 4), torch.rand(1, 0, 4)).shape == (3, 0)


def test_each_object_goes_to_the_query_on_it_and_of_equals_to_the_stronger():
    targets = boxes([10, 10, 8, 8], [40, 40, 6, 6], [70, 10, 20, 20])
    assert pairs(targets[[2, 0, 1]], targets) == [(0, 2), (1, 0), (2, 1)]
    assert pairs(targets[[0, 0]], targets[:1], scores=[0.3, 0.4]) == [(1, 0)]
    assert pairs(targets[[1, 2]], targets) == [(0, 1), (1, 2)]  # fewer queries than objects: every one is used
    assert pairs(targets[:1], boxes()) == []


def test_score_distance_and_overlap_are_weighed_as_written():
    """Query 0 is 1 px off (of 8), query 1 is exact; which one wins turns where the score makes up for it.

    Query 0: relative L1 1/8; intersection 7 x 8 = 56, union 72 = hull, GIoU 56/72: 2 (1 - 7/9) = 4/9. Together 0.5694.
    So query 0 wins when 2 (s0 - s1) > 0.5694, that is s0 - s1 > 0.2847.
    """
    queries, targets = boxes([11, 10, 8, 8], [10, 10, 8, 8]), boxes([10, 10, 8, 8])
    assert pairs(queries, targets, scores=[0.78, 0.5]) == [(1, 0)]
    assert pairs(queries, targets, scores=[0.79, 0.5]) == [(0, 0)]


@pytest.mark.parametrize("seed", range(6))
def test_the_assignment_is_the_best_of_all_permutations(seed):
    generator = torch.Generator().manual_seed(seed)
    queries, targets = 4 + 20 * torch.rand(2, 3, 4, generator=generator)
    scores = torch.rand(3, generator=generator)
    giou = generalized_box_iou(to_xyxy(queries), to_xyxy(targets))
    cost = 2 * (1 - scores)[:, None] + relative_l1(queries[:, None], targets[None]) + 2 * (1 - giou)
    best = min(itertools.permutations(range(3)), key=lambda p: sum(cost[q, p[q]].item() for q in range(3)))
    assert pairs(queries, targets, scores=scores.tolist()) == list(enumerate(best))


def test_padding_is_never_matched():
    targets = boxes([10, 10, 8, 8])
    queries = boxes([10, 10, 8, 8], [60, 60, 8, 8], [10, 10, 8, 8])
    assert pairs(queries, targets, valid=[False, True, False]) == [(1, 0)]


def test_a_click_binds_its_query_to_its_object_however_bad_the_box():
    targets = boxes([10, 10, 8, 8], [40, 40, 8, 8])
    queries = boxes([400, 400, 8, 8], [10, 10, 8, 8], [40, 40, 8, 8])  # the first is the click's own
    assert pairs(queries, targets) == [(1, 0), (2, 1)]
    assert pairs(queries, targets, clicked=torch.tensor([1])) == [(0, 1), (1, 0)]


def test_every_click_of_a_set_binds_and_padding_binds_nothing():
    targets = boxes([10, 10, 8, 8], [40, 40, 8, 8], [70, 70, 8, 8])
    queries = boxes([400, 400, 8, 8], [300, 300, 8, 8], [0, 0, 4, 4], [10, 10, 8, 8], [40, 40, 8, 8], [70, 70, 8, 8])
    valid = [True, True, False, True, True, True]
    got = pairs(queries, targets, valid=valid, clicked=torch.tensor([2, 0, -1]))
    assert got == [(0, 2), (1, 0), (4, 1)]


def test_a_click_binds_also_behind_a_query_that_is_padding():
    """Rows of the cost are counted among valid queries only."""
    targets = boxes([10, 10, 8, 8], [40, 40, 8, 8])
    queries = boxes([0, 0, 4, 4], [400, 400, 8, 8], [40, 40, 8, 8], [10, 10, 8, 8])
    got = pairs(queries, targets, valid=[False, True, True, True], clicked=torch.tensor([-1, 1]))
    assert got == [(1, 1), (3, 0)]


def test_of_the_own_queries_of_a_click_the_best_is_bound():
    targets = boxes([10, 10, 8, 8], [40, 40, 8, 8])
    queries = boxes([41, 40, 8, 8], [41, 40, 5, 5], [40, 40, 8, 8], [10, 10, 8, 8], [40, 40, 7, 8])
    # the click on object 1 has queries 0, 1 and 2; query 1 is off, query 0 is nearly right, query 2 right
    assert pairs(queries, targets, clicked=torch.tensor([1, 1, 1])) == [(2, 1), (3, 0)]
    valid = [True, True, False, True, True]
    assert pairs(queries, targets, valid=valid, clicked=torch.tensor([1, 1, 1])) == [(0, 1), (3, 0)]  # although query 4 is better
    # two clicks with two queries each: the first click's are 0 and 2, the second's 1 and 3
    assert pairs(queries, targets, clicked=torch.tensor([1, 0, 1, 0])) == [(2, 1), (3, 0)]


def test_boxes_that_are_not_numbers_are_matched_last():
    targets = boxes([10, 10, 8, 8])
    queries = boxes([float("nan")] * 4, [300, 300, 8, 8])
    assert pairs(queries, targets) == [(1, 0)]
    assert pairs(queries[:1], targets) == [(0, 0)]


def test_matching_keeps_no_gradient():
    queries = boxes([10, 10, 8, 8]).requires_grad_()
    rows, columns = hungarian_match(
        queries, torch.zeros(1, requires_grad=True), torch.ones(1, dtype=torch.bool), boxes([9, 9, 8, 8]), NO_CLICK
    )
    assert not rows.requires_grad and not columns.requires_grad
