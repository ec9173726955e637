"""`dealkit.model.loss`: every term by hand, and the criterion on perfect, empty, crowded and broken predictions."""

import math
from dataclasses import fields, replace

import pytest
import torch
from conftest import target_of

from dealkit.config import LossConfig
from dealkit.model.deal import Output
from dealkit.model.loss import (
    CLICKED,
    activation_losses,
    box_losses,
    criterion,
    dense_box,
    focal_heatmap,
    on_rivals,
    peak_target,
    poisson_density,
    varifocal,
)
from dealkit.model.queries import Activation

LN2 = math.log(2)


def rows(*boxes):
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


# Terms


@pytest.mark.parametrize(
    ("logit", "quality", "expected"),
    [
        (0.0, 0.0, 0.75 * 0.5 * LN2),  # a negative: alpha p x cross-entropy, p = 1/2
        (0.0, 1.0, LN2),  # a perfect box: quality x cross-entropy
        (0.0, 0.5, 0.5 * LN2),  # -(0.5 ln 0.5 + 0.5 ln 0.5) = ln 2, times the quality
        (math.log(3), 0.0, 0.75 * 0.75 * math.log(4)),  # p = 3/4: -ln(1/4)
        (-20.0, 0.0, 0.0),
    ],
)
def test_varifocal_by_hand(logit, quality, expected):
    got = varifocal(torch.tensor([logit]), torch.tensor([quality]), torch.ones(1))
    assert got.item() == pytest.approx(expected, abs=1e-6)
    assert varifocal(torch.tensor([logit]), torch.tensor([quality]), torch.zeros(1)).item() == 0


def test_a_matched_score_is_best_where_it_equals_the_overlap():
    logits = torch.linspace(-3, 3, 61)
    best = logits[varifocal(logits, torch.full_like(logits, 0.7), torch.ones_like(logits)).argmin()]
    assert best.sigmoid().item() == pytest.approx(0.7, abs=0.02)


def test_peaks_stand_on_the_cells_of_the_centres():
    assert torch.equal(peak_target(rows(), 3, 5), torch.zeros(3, 5))
    heat = peak_target(rows([10, 6, 4, 4], [29, 27, 4, 4]), 8, 8)  # cells (2, 1) and (7, 6)
    assert (heat == 1).nonzero().tolist() == [[1, 2], [6, 7]]
    # 4 px are 1 cell: sigma 1/6 is raised to 0.4, so a neighbour has exp(-0.5 (1 / 0.4)^2) = exp(-3.125)
    assert heat[1, 3].item() == pytest.approx(math.exp(-3.125)) and heat[0, 2].item() == pytest.approx(math.exp(-3.125))


def test_a_peak_is_as_long_as_its_object_and_touching_objects_keep_two():
    heat = peak_target(rows([34, 34, 48, 12]), 16, 16)  # 12 x 3 cells: sigma 2 and 0.5
    assert heat[8, 10].item() == pytest.approx(math.exp(-0.5)) and heat[9, 8].item() == pytest.approx(math.exp(-2.0))
    heat = peak_target(rows([10, 10, 8, 8], [18, 10, 8, 8]), 8, 8)  # cells 2 and 4
    assert heat[2, 2] == heat[2, 4] == 1 and heat[2, 3] < 0.2


def test_the_peak_loss_by_hand():
    """p = 1/2 everywhere. A peak: (1/2)^2 ln 2. A cell of target 0: (1/2)^2 ln 2. One of target 1/2: a (1 - 1/2)^4 of that."""
    for keep, cells in (([True] * 3, 1 + 1 + 1 / 16), ([True, False, False], 1)):
        loss = focal_heatmap(torch.zeros(1, 1, 3), torch.tensor([[[1.0, 0.0, 0.5]]]), torch.tensor([[keep]]))
        assert loss.item() == pytest.approx(0.25 * LN2 * cells)


def test_the_density_loss_by_hand():
    """Two objects in 4 x 4 cells at density 1/4: integral 4, minus 2 ln(1/4)."""
    keep, density = torch.ones(1, 4, 4, dtype=torch.bool), torch.full((1, 4, 4), 0.25)
    two = rows([2, 2, 4, 4], [10, 14, 4, 4])
    assert poisson_density(density, [two], keep).item() == pytest.approx(4 + 4 * LN2)
    assert poisson_density(density, [rows()], keep).item() == 4
    assert poisson_density(density, [two], keep & (torch.arange(4) < 3)).item() == pytest.approx(3 + 4 * LN2)
    both = poisson_density(density.expand(2, 4, 4), [rows(), two], keep.expand(2, 4, 4))
    assert both.tolist() == pytest.approx([4, 4 + 4 * LN2]), "sets at once as one by one"


def test_box_losses_of_pairs_by_hand():
    pred, truth = rows([10, 10, 8, 8], [11, 10, 8, 8]), rows([10, 10, 8, 8], [10, 10, 8, 8])
    l1, giou, iou = box_losses(pred, truth)
    assert l1.tolist() == [0, 0.125]
    assert giou.tolist() == pytest.approx([0, 1 - 56 / 72]) and iou.tolist() == pytest.approx([1, 56 / 72])
    assert [v.shape for v in box_losses(rows(), rows())] == [(0,)] * 3


def test_a_pair_far_apart_costs_no_more_than_a_limit():
    l1, giou, iou = box_losses(rows([1000, 10, 4, 4]), rows([10, 10, 4, 4]))
    farther = box_losses(rows([5000, 10, 4, 4]), rows([10, 10, 4, 4]))[0]
    assert l1 == farther < 50 and 1 < giou < 2 and iou == 0


def test_the_dense_head_learns_the_box_at_nine_cells_of_an_object():
    """A 16 px object at (32, 32): offsets of -4, 0, 4 px give rows and columns 7, 8, 9. Exact there, wrong elsewhere: no loss."""
    truth, dense = rows([32, 32, 16, 16]), torch.full((1, 16, 16, 4), 5.0)
    dense[0, 7:10, 7:10] = truth[0]
    assert dense_box(dense, [truth]).item() == 0
    dense[0, 9, 9] = torch.tensor([34.0, 32.0, 16.0, 16.0])  # 2 of 16 px: L1 1/8; overlap 14 x 16 of 18 x 16: 1 - 7/9
    assert dense_box(dense, [truth]).item() == pytest.approx((1 / 8 + 2 / 9) / 9)
    assert dense_box(dense, [rows()]).item() == 0
    both = dense_box(dense.expand(2, -1, -1, -1), [rows(), truth])
    assert both.tolist() == pytest.approx([0, (1 / 8 + 2 / 9) / 9]), "sets at once as one by one"


def test_objects_over_the_border_use_its_cells():
    assert torch.isfinite(dense_box(torch.ones(1, 4, 4, 4), [rows([0, 16, 20, 20])]))
    assert torch.isfinite(poisson_density(torch.ones(1, 4, 4), [rows([16, 16, 2, 2])], torch.ones(1, 4, 4, dtype=torch.bool)))


def test_an_object_inside_an_ignored_region_still_has_a_finite_best_density():
    """One object, nothing kept: the integral counts its own cell, so d - ln d is least at d = 1."""
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    costs = [poisson_density(torch.full((1, 4, 4), d), [rows([2, 2, 4, 4])], nothing).item() for d in (0.5, 1.0, 2.0)]
    assert costs[1] == 1 < min(costs[0], costs[2])


# Criterion

OBJECTS = [[10.0, 10.0, 8.0, 8.0], [34.0, 30.0, 6.0, 10.0], [52.0, 54.0, 12.0, 4.0]]


def prediction(of_set, *, extra=3, layers=2):
    """A perfect answer for one set in 64 x 64 px: a query of score 1 per object, the rest padding or score 0."""
    n, k = len(of_set.boxes), len(of_set.boxes) + extra
    peak, density, dense = peak_target(of_set.boxes, 16, 16), torch.full((16, 16), 1e-6), torch.full((16, 16, 4), 5.0)
    cells = (of_set.boxes[:, :2] / 4).long()
    density[cells[:, 1], cells[:, 0]] = 1.0
    for box in of_set.boxes:
        (left, top), (right, bottom) = (((box[:2] + sign * box[2:] / 4) / 4).long().tolist() for sign in (-1, 1))
        dense[top : bottom + 1, left : right + 1] = box
    logits, found = torch.full((1, k), -20.0), torch.full((1, k, 4), 5.0)
    logits[0, :n], found[0, :n] = 20.0, of_set.boxes
    return Output(
        pred_logits=logits,
        pred_boxes=found,
        valid=torch.ones(1, k, dtype=torch.bool),
        activation=Activation(
            hidden=torch.zeros(1, 1, 16, 16),
            peak_logits=torch.where(peak == 1, 20.0, -20.0)[None],
            density=density[None],
            boxes=dense[None],
        ),
        aux_outputs=[(found.clone(), logits.clone()) for _ in range(layers - 1)],
        reference_points=found.clone(),
        count=density.sum()[None],
        denoised=[of_set.boxes[None].clone() for _ in range(layers)],
    )


def values(output, targets, weights=None):
    origin = torch.arange(output.denoised[0].shape[1])[None] if output.denoised else None
    return {name: value.item() for name, value in criterion(output, targets, weights or LossConfig(), origin).items()}


def test_a_perfect_answer_costs_only_the_floor_of_the_density():
    """Integral 3, logs 0: 3 objects cost 3 / sqrt(3), over the weight sqrt(3) of the set: 1, times 0.2."""
    terms = values(prediction(target_of(OBJECTS)), [target_of(OBJECTS, clicked=[0])])
    assert terms.pop("loss_density") == pytest.approx(0.2, abs=1e-3)
    assert terms == pytest.approx(dict.fromkeys(terms, 0.0), abs=1e-5)
    assert set(terms) == {"loss_score", "loss_bbox", "loss_giou", "loss_peak", "loss_dense_box", "loss_denoise"}
    assert "loss_denoise" not in values(replace(prediction(target_of(OBJECTS)), denoised=[]), [target_of(OBJECTS)])


@pytest.mark.parametrize(
    ("term", "spoil"),
    [
        ("loss_score", lambda o: replace(o, pred_logits=o.pred_logits - 21 * (o.pred_logits > 0))),  # missed
        ("loss_score", lambda o: replace(o, pred_logits=o.pred_logits.clamp(min=1))),  # false alarms
        ("loss_bbox", lambda o: replace(o, pred_boxes=o.pred_boxes + torch.tensor([1.0, 0, 0, 0]))),
        ("loss_giou", lambda o: replace(o, pred_boxes=o.pred_boxes * torch.tensor([1.0, 1, 1, 1.5]))),
        ("loss_bbox", lambda o: replace(o, aux_outputs=[(b + 1, s) for b, s in o.aux_outputs])),  # an earlier layer counts, too
        ("loss_peak", lambda o: lit(o, peak_logits=o.activation.peak_logits / 10)),
        ("loss_density", lambda o: lit(o, density=2 * o.activation.density)),
        ("loss_density", lambda o: lit(o, density=0.5 * o.activation.density)),
        ("loss_dense_box", lambda o: lit(o, boxes=o.activation.boxes + 1)),
        ("loss_denoise", lambda o: replace(o, denoised=[o.denoised[0] + 1, *o.denoised[1:]])),
    ],
)
def test_every_fault_raises_its_term(term, spoil):
    output, targets = prediction(target_of(OBJECTS)), [target_of(OBJECTS, clicked=[0])]
    assert values(spoil(output), targets)[term] > values(output, targets)[term] + 0.01


def test_the_box_of_a_clicked_object_counts_three_times():
    output = prediction(target_of(OBJECTS))
    moved = replace(output, pred_boxes=output.pred_boxes + torch.tensor([[1.0, 0, 0, 0], *[[0.0] * 4] * (len(OBJECTS) + 2)]))
    clicked, plain = (values(moved, [target_of(OBJECTS, clicked=c)]) for c in ([0], []))
    for term in ("loss_bbox", "loss_giou"):
        assert clicked[term] == pytest.approx(CLICKED * plain[term]) and plain[term] > 0


def lit(output, **changes):
    return replace(output, activation=replace(output.activation, **changes))


@pytest.mark.parametrize("name", [f.name for f in fields(LossConfig)])
def test_every_weight_scales_its_own_term(name):
    output = prediction(target_of(OBJECTS))
    spoilt = {"pred_logits": output.pred_logits / 20, "denoised": [d + 1 for d in output.denoised]}
    output = replace(output, pred_boxes=output.pred_boxes + 1, **spoilt)
    output = lit(output, peak_logits=output.activation.peak_logits / 10, boxes=output.activation.boxes + 1)
    targets = [target_of(OBJECTS)]
    plain, weighted = values(output, targets), values(output, targets, replace(LossConfig(), **{name: 7.0}))
    scale = {f"loss_{f.name}": 7 / getattr(LossConfig(), f.name) if f.name == name else 1.0 for f in fields(LossConfig)}
    assert all(v > 0.01 for v in plain.values())
    assert weighted == pytest.approx({term: scale[term] * v for term, v in plain.items()}, rel=1e-5)


def test_an_answer_with_an_object_of_another_kind_counts_three_times():
    """Two silly queries of p = 1/2, each 0.75 x 1/2 x ln 2: one with an IoU of 6/10 with the rival, one of 4/12."""
    of_set = replace(target_of(OBJECTS), rivals=rows([20, 50, 8, 8], [34, 30, 6, 10]))
    output = prediction(of_set, layers=1)
    boxes, logits = output.pred_boxes.clone(), output.pred_logits.clone()
    boxes[0, 3:5], logits[0, 3:5] = rows([22, 50, 8, 8], [24, 50, 8, 8]), 0.0
    output = replace(output, pred_boxes=boxes, pred_logits=logits)
    assert on_rivals(boxes, [of_set]).tolist() == [[False, True, False, True, False, False]]  # the matched second is right
    assert not on_rivals(boxes, [target_of(OBJECTS)]).any() and on_rivals(boxes[:, :0], [of_set]).shape == (1, 0)
    unit = LossConfig().score * 0.375 * LN2 / 3  # over three objects
    for rival, times in ((3.0, 3 + 1), (1.0, 1 + 1)):
        assert values(output, [of_set], LossConfig(rival=rival))["loss_score"] == pytest.approx(times * unit, rel=1e-4)


def test_a_set_without_objects_costs_a_finite_loss_that_falls_with_the_scores():
    empty = target_of([])
    output = prediction(empty)
    quiet, loud = values(output, [empty]), values(replace(output, pred_logits=output.pred_logits + 22), [empty])
    assert all(math.isfinite(v) for v in quiet.values()) and sum(quiet.values()) < 0.01
    assert loud["loss_score"] > 1 and loud["loss_bbox"] == 0


def test_gradients_are_finite_with_and_without_objects():
    for of_set in (target_of(OBJECTS, clicked=[1]), target_of([])):
        output = prediction(of_set)
        leaves = [output.pred_logits, output.pred_boxes, output.activation.peak_logits, output.activation.density]
        for leaf in leaves:
            leaf.requires_grad_()
        sum(criterion(output, [of_set], LossConfig()).values()).backward()
        assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_what_lies_on_a_crowd_region_is_neither_right_nor_wrong():
    with_crowd, without = target_of(OBJECTS, crowd=[[20, 52, 16, 16]]), target_of(OBJECTS)
    output = prediction(without)
    found, logits = output.pred_boxes.clone(), output.pred_logits.clone()
    found[0, 4], logits[0, 4] = torch.tensor([22.0, 50.0, 8.0, 8.0]), 3.0  # confident, in the region, on no object
    peaks, density = output.activation.peak_logits.clone(), output.activation.density.clone()
    peaks[0, 12, 5], density[0, 12, 5] = 3.0, 1.0
    output = lit(replace(output, pred_boxes=found, pred_logits=logits), peak_logits=peaks, density=density)
    assert values(output, [with_crowd]) == pytest.approx(values(prediction(without), [without]), abs=1e-3)
    counted = values(output, [without])
    assert counted["loss_score"] > 0.5 and counted["loss_peak"] > 0.5 and counted["loss_density"] > 0.25  # 4 / 3 x 0.2


def test_a_click_makes_its_query_answer_for_its_object():
    """Query 3 is bound to object 0 and has to move there; without a click it may stay wrong and silent."""
    free, bound = target_of(OBJECTS), target_of(OBJECTS, clicked=[-1, -1, -1, 0])
    output = prediction(free)
    assert values(output, [free])["loss_bbox"] == pytest.approx(0, abs=1e-6)
    terms = values(output, [bound])
    assert terms["loss_bbox"] > 0.1 and terms["loss_score"] > 0.5


def test_of_several_queries_of_a_click_only_the_best_answers_for_its_object():
    """Object 0 is clicked; with three queries per click, 0, 1 and 2 are its own, and 0 has the right box."""
    of_set = target_of(OBJECTS, clicked=[0])
    output = prediction(of_set)
    assert values(replace(output, starts=3), [of_set]) == pytest.approx(values(output, [of_set]), abs=1e-5)
    turned = replace(output, pred_boxes=output.pred_boxes.flip(1), pred_logits=output.pred_logits.flip(1), aux_outputs=[])
    last = {starts: values(replace(turned, starts=starts), [of_set])["loss_bbox"] for starts in (1, turned.valid.shape[1])}
    assert last[turned.valid.shape[1]] == pytest.approx(0, abs=1e-6) and last[1] > 0.1  # the right one is the last


def test_padding_queries_cost_nothing():
    of_set = target_of(OBJECTS)
    output = prediction(of_set)
    loud = replace(output, pred_logits=output.pred_logits.clamp(min=5))
    valid = output.valid.clone()
    valid[:, 3:] = False
    silenced = replace(loud, valid=valid, aux_outputs=[])
    assert values(silenced, [of_set])["loss_score"] < 1e-2 < values(loud, [of_set])["loss_score"]


def test_sets_weigh_by_the_root_of_their_objects():
    """One object missed in a set of 1 and none in a set of 4: shares 1 and 1/2, total 1 + 4/2 = 3; alone the total is 1."""
    one, four = target_of(OBJECTS[:1]), target_of([[8.0 + 16 * i, 40.0, 8.0, 8.0] for i in range(4)])
    a, b = prediction(one, extra=6), prediction(four, extra=3)
    a = replace(a, pred_boxes=a.pred_boxes + torch.tensor([1.0, 0, 0, 0]))
    names = ("pred_logits", "pred_boxes", "valid", "reference_points", "count")
    both = {name: torch.cat([getattr(a, name), getattr(b, name)]) for name in names}
    maps = Activation(**{k: torch.cat([v, getattr(b.activation, k)]) for k, v in vars(a.activation).items()})
    both = Output(**both, activation=maps, aux_outputs=[], denoised=[])
    alone = values(replace(a, aux_outputs=[]), [one])["loss_bbox"]
    assert alone == pytest.approx(LossConfig().bbox / 8)  # 1 px of 8
    assert values(both, [one, four])["loss_bbox"] == pytest.approx(alone / 3)


# Cross-scale queries


def on_two_levels(objects, large):
    """A prediction for 128 x 128 px whose maps know nothing: peaks and densities of 0.1 everywhere, on strides 4 and 16."""

    def level(cells):
        logits, boxes_ = torch.zeros(1, cells, cells), torch.full((1, cells, cells, 4), 40.0)
        return Activation(hidden=torch.zeros(1, 1, 1, 1), peak_logits=logits, density=logits + 0.1, boxes=boxes_)

    found = objects[None].clone()
    return Output(
        pred_logits=torch.zeros(found.shape[:2]),
        pred_boxes=found,
        valid=torch.ones(found.shape[:2], dtype=torch.bool),
        activation=level(32),
        large=level(8) if large else None,
        aux_outputs=[],
        reference_points=found,
        count=torch.full((1,), 100.0),
        denoised=[],
    )


def test_objects_of_64_pixels_belong_to_the_coarse_level():
    """A 64 x 64 and a 50 x 70 (59.2) px object: one on each level, and the boxes of both on the fine one."""
    of_set = target_of([[64.0, 64.0, 64.0, 64.0], [60.0, 60.0, 50.0, 70.0]])
    terms = activation_losses(on_two_levels(of_set.boxes, large=True), [of_set], torch.ones(1))
    # integrals 32 x 32 x 0.1 and 8 x 8 x 0.1; each level pays -log 0.1 for its own object
    assert terms["density"].item() == pytest.approx(102.4 + 6.4 + 2 * 2.302585, rel=1e-5)
    output = on_two_levels(of_set.boxes, large=True)
    box = dense_box(output.activation.boxes, [of_set.boxes]) + dense_box(output.large.boxes, [of_set.boxes[:1]], 16)
    assert terms["dense_box"].item() == pytest.approx(box.item(), rel=1e-5)
    single = activation_losses(on_two_levels(of_set.boxes, large=False), [of_set], torch.ones(1))
    assert single["density"].item() == pytest.approx(102.4 + 2 * 2.302585, rel=1e-5)


def test_a_peak_of_the_coarse_level_lies_in_the_cell_of_its_object():
    bump = peak_target(rows([40, 24, 96, 96]), 8, 8, 16)
    assert (bump == 1).nonzero().tolist() == [[1, 2]]  # row 24 // 16, column 40 // 16
