"""`dealkit.boxes`: formats, overlaps and size bins."""

import pytest
import torch
from torchvision.ops import box_area, box_iou, generalized_box_iou, nms

from dealkit.boxes import (
    SIZE_BINS,
    check_xyxy,
    claim,
    in_regions,
    overlapping,
    paired_iou,
    size_bin,
    to_cxcywh,
    to_xyxy,
    without_duplicates,
)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ([0, 0, 4, 4], [0, 0, 4, 4], 1.0, 1.0),  # the same box
        ([0, 0, 4, 4], [0, 0, 2, 2], 0.25, 0.25),  # a quarter inside: 4 / 16, hull 16
        ([0, 0, 2, 2], [2, 0, 4, 2], 0.0, 0.0),  # side by side: union 8 = hull
        ([0, 0, 2, 2], [2, 2, 4, 4], 0.0, -0.5),  # corner to corner: union 8, hull 16, 0 - 8 / 16
        ([0, 0, 1, 1], [3, 0, 4, 1], 0.0, -0.5),  # a gap of 2: union 2, hull 4, 0 - 2 / 4
        ([0, 0, 4, 2], [2, 0, 6, 2], 1 / 3, 1 / 3),  # intersection 4, union 12 = hull
    ],
)
def test_overlaps_worked_out_by_hand(a, b, iou, giou):
    got = paired_iou(boxes(a), boxes(b))
    assert [v.item() for v in got] == pytest.approx([iou, giou], abs=1e-6)


def test_paired_overlaps_are_the_diagonal_of_torchvisions():
    generator = torch.Generator().manual_seed(0)
    corner = 20 * torch.rand(2, 50, 2, generator=generator)
    a, b = torch.cat([corner, corner + 0.5 + 20 * torch.rand(2, 50, 2, generator=generator)], -1)
    iou, giou = paired_iou(a, b)
    torch.testing.assert_close(iou, box_iou(a, b).diagonal())
    torch.testing.assert_close(giou, generalized_box_iou(a, b).diagonal())


def test_a_box_without_area_overlaps_nothing_and_has_a_finite_gradient():
    a = boxes([3, 3, 3, 3], [0, 0, 5, 0], [5, 5, 4, 4]).requires_grad_()
    iou, giou = paired_iou(a, boxes([3, 3, 3, 3], [0, 0, 5, 5], [0, 0, 9, 9]))
    (iou + giou).sum().backward()
    assert [v.shape for v in paired_iou(boxes(), boxes())] == [(0,), (0,)]
    assert iou.tolist() == [0, 0, 0] and torch.isfinite(giou).all() and torch.isfinite(a.grad).all()


def test_formats_turn_into_each_other_in_any_leading_shape():
    corners = boxes([3, 4, 7, 6], [0, 0, 0.5, 0.25]).reshape(2, 1, 4)
    assert to_cxcywh(corners).tolist() == [[[5, 5, 4, 2]], [[0.25, 0.125, 0.5, 0.25]]]
    assert torch.equal(to_xyxy(to_cxcywh(corners)), corners)
    assert to_xyxy(boxes()).shape == to_cxcywh(boxes()).shape == (0, 4)


def test_good_boxes_pass_the_check_unchanged():
    good = boxes([0, 0, 0.01, 0.01], [-5, -5, 900, 1])
    assert check_xyxy(good) is good
    assert check_xyxy(boxes()).shape == (0, 4)


@pytest.mark.parametrize(
    "bad", [[50, 60, 4, 4], [1, 1, 1, 2], [1, 2, 3, 2], [0, 0, float("nan"), 1], [0, 0, float("inf"), 1]], ids=str
)
def test_the_first_bad_box_is_named(bad):
    with pytest.raises(ValueError, match=r"truth\[1\]: not xyxy: \["):
        check_xyxy(boxes([0, 0, 1, 1], bad, bad), "truth")


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 1, 4)])
def test_boxes_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"boxes: expected shape \(N, 4\), got"):
        check_xyxy(torch.ones(shape))


def test_size_bins_follow_each_other_without_a_gap():
    ends = list(SIZE_BINS.values())
    assert ends[0][0] == 0 and [high for _, high in ends[:-1]] == [low for low, _ in ends[1:]]


def test_an_area_on_a_border_is_in_the_smaller_bin():
    assert size_bin(torch.tensor([0.0, 64.0, 64.1, 256.0, 1024.0, 1025.0])) == ["vt", "vt", "t", "t", "s", "m"]
    assert size_bin(torch.zeros(0)) == []


def test_points_inside_regions_are_found_borders_included():
    points = torch.tensor([[[0.0, 0.0], [4.0, 5.0]], [[6.0, 5.0], [30.0, 30.0]]])
    regions = boxes([4, 3, 6, 7], [29.5, 29.5, 30.5, 30.5])
    assert in_regions(points, regions).tolist() == [[False, True], [True, True]]
    assert in_regions(points, boxes()).tolist() == [[False, False], [False, False]]


@pytest.mark.parametrize(
    ("overlap", "threshold", "columns"),
    [
        ([[0.9], [0.8]], 0.5, [0, -1]),  # an object is found once, by the strongest
        ([[0.9, 0.6], [0.8, 0.7]], 0.5, [0, 1]),  # the second best is free
        ([[0.9, 0.4], [0.8, 0.4]], 0.5, [0, -1]),  # but too far away
        ([[0.5, 0.5]], 0.5, [0]),  # the threshold itself is enough; of equal ones the first
        ([[0.4, 0.0], [0.3, 0.2]], 0.2, [0, 1]),
        ([[float("nan"), 0.6]], 0.5, [1]),
        ([[], []], 0.5, [-1, -1]),  # no objects
    ],
)
def test_each_object_is_claimed_once(overlap, threshold, columns):
    assert claim(torch.tensor(overlap), threshold).tolist() == columns


def test_nothing_claims_nothing_and_the_overlap_stays_as_it_was():
    assert claim(torch.zeros(0, 3)).tolist() == []
    overlap = torch.rand(40, 25, generator=torch.Generator().manual_seed(0))
    before = overlap.clone()
    column = claim(overlap, 0.7)
    assert torch.equal(overlap, before)
    free, expected = set(range(25)), []
    for row in overlap.tolist():  # said once more in plain Python
        best = max(free, key=lambda t: row[t], default=None)
        expected.append(best if best is not None and row[best] >= 0.7 else -1)
        free -= {expected[-1]}
    assert column.tolist() == expected and sorted(set(expected)) == list(range(-1, 25))


@pytest.mark.parametrize("n", [0, 1, 300])
def test_pairs_that_overlap_are_those_of_all_with_all(n):
    rng = torch.Generator().manual_seed(n)
    corner, size = 200 * torch.rand(n, 2, generator=rng) - 20, 40 * torch.rand(n, 2, generator=rng) ** 4 + 1  # few large ones
    boxes = torch.cat([corner, corner + size], dim=1)
    if n:
        boxes[0] = torch.tensor([-20.0, -20.0, 220.0, 220.0])  # lies on all cells
        boxes[1:3] = torch.tensor([[8.0, 8.0, 16.0, 16.0], [16.0, 8.0, 24.0, 16.0]])[: n - 1]  # touch, and share nothing
    a, b, shared, iou = overlapping(boxes)
    every = box_iou(boxes, boxes)
    assert sorted(map(sorted, zip(a.tolist(), b.tolist(), strict=True))) == every.triu(1).nonzero().tolist()
    torch.testing.assert_close(iou, every[a, b])
    torch.testing.assert_close(shared, every[a, b] * (box_area(boxes)[a] + box_area(boxes)[b]) / (1 + every[a, b]))


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_without_duplicates_what_greedy_suppression_keeps_stays(threshold):
    rng = torch.Generator().manual_seed(1)
    corner = 60 * torch.rand(400, 2, generator=rng)
    boxes = torch.cat([corner, corner + 12 + 4 * torch.rand(400, 2, generator=rng)], dim=1)
    scores = torch.rand(400, generator=rng).mul(50).round() / 50  # many are equal
    order = scores.argsort(descending=True, stable=True)
    a, b, _, iou = overlapping(boxes)
    stays = without_duplicates(order.argsort(), a[iou > threshold], b[iou > threshold])
    assert torch.equal(order[stays[order]], nms(boxes, scores, threshold)) and 0 < stays.sum() < 400
