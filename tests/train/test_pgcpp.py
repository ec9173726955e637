"""`dealkit.train.pgcpp`: the next click, on hand-made predictions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded, target_of

from dealkit.config import PromptConfig
from dealkit.model.deal import Output
from dealkit.model.queries import Activation
from dealkit.prompts import stack_prompts
from dealkit.train.pgcpp import next_prompts, object_quality, worst_false_positive, worst_object

OBJECTS = torch.tensor([[10.0, 10.0, 8.0, 8.0], [40.0, 10.0, 8.0, 8.0], [10.0, 40.0, 8.0, 8.0]])
NOWHERE = torch.zeros(0, 4)


def answer(boxes, scores):
    """The output of one set: queries with these boxes and scores, the click's own first."""
    k = len(boxes)
    return Output(
        pred_logits=torch.tensor([scores]).logit(),
        pred_boxes=torch.as_tensor(boxes)[None].float(),
        valid=torch.ones(1, k, dtype=torch.bool),
        activation=Activation(hidden=NOWHERE, peak_logits=NOWHERE, density=NOWHERE, boxes=NOWHERE),
        aux_outputs=[],
        reference_points=NOWHERE,
        count=torch.zeros(1),
        denoised=[],
    )


def target(boxes=OBJECTS, clicked=(0,)):
    return target_of(boxes, clicked=clicked)


def click_on(x, y):
    return stack_prompts([(torch.tensor([[x, y]]), torch.tensor([1]))], [0])


def following(output, of_set, prompts=None, *, seed=0, **settings):
    config = PromptConfig(**{"cycles": 2, "negatives": 0.0, **settings})
    prompts, targets = next_prompts(output, prompts or click_on(10.0, 10.0), [of_set], config, (64, 64), seeded(seed))
    return prompts.points[0].tolist(), prompts.labels[0].tolist(), targets[0].clicked.tolist()


def test_quality_is_score_times_overlap_and_zero_where_nothing_answers():
    """The first box is moved by half its width: intersection 4 x 8, union 12 x 8, IoU 1/3."""
    boxes = OBJECTS[:2] + torch.tensor([[4.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    pairs = (torch.tensor([0, 1]), torch.tensor([0, 1]))
    quality = object_quality(boxes, torch.tensor([0.9, 0.8]), OBJECTS, pairs)
    assert quality.tolist() == pytest.approx([0.3, 0.8, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("quality", "worst"), [([0.9, 0.2, 0.5], 1), ([0.9, 0.0, 0.0], 1), ([0.3, 0.3], 0), ([0.4], 0), ([], None)]
)
def test_the_worst_object_is_the_first_of_the_lowest(quality, worst):
    assert worst_object(torch.tensor(quality)) == worst


@pytest.mark.parametrize(
    ("boxes", "scores", "next_point"),
    [
        (OBJECTS[:2], [0.9, 0.9], [10, 40]),  # the third has no query
        (OBJECTS, [0.9, 0.2, 0.9], [40, 10]),  # the second scores least
        (OBJECTS + torch.tensor([[0.0] * 4, [0.0] * 4, [3.0, 0, 0, 0]]), [0.9, 0.9, 0.9], [10, 40]),  # the third is off
        (OBJECTS, [0.9, 0.5, 0.5], [40, 10]),  # equals: the first of them
    ],
    ids=["unmatched", "low score", "poor box", "tie"],
)
def test_the_next_click_is_at_the_centre_of_the_object_handled_worst(boxes, scores, next_point):
    points, labels, clicked = following(answer(boxes, scores), target())
    assert points == [next_point] and labels == [1]
    assert OBJECTS[clicked[0], :2].tolist() == next_point


def test_one_object_is_clicked_again_and_a_set_without_objects_keeps_its_prompt():
    points, _, clicked = following(answer(OBJECTS[:1], [0.9]), target(OBJECTS[:1]), click_on(11.0, 9.0))
    assert (points, clicked) == ([[10, 10]], [0])
    points, labels, clicked = following(answer(OBJECTS, [0.05] * 3), target(NOWHERE, [-1]))
    assert (points, labels, clicked) == ([[10, 10]], [1], [-1])


def test_added_clicks_join_the_earlier_ones_and_replaced_ones_go():
    output = answer(OBJECTS, [0.9, 0.2, 0.9])
    points, labels, clicked = following(output, target(), keep="add")
    assert (points, labels, clicked) == ([[10, 10], [40, 10]], [1, 1], [0, 1])
    before = stack_prompts([(torch.tensor([[10.0, 10.0], [60.0, 60.0]]), torch.tensor([1, 0]))], [0])
    points, labels, clicked = following(output, target(clicked=(0, -1)), before)
    assert (points, labels, clicked) == ([[60, 60], [40, 10]], [0, 1], [-1, 1])  # "not this" stays true


@pytest.mark.parametrize("strategy", ["centre", "random"])
def test_other_strategies_draw_any_object_and_repeat_with_the_seed(strategy):
    output = answer(OBJECTS, [0.9, 0.2, 0.9])
    draws = [following(output, target(), strategy=strategy, seed=s) for s in range(30)]
    assert {d[2][0] for d in draws} == {0, 1, 2}
    assert draws[3] == following(output, target(), strategy=strategy, seed=3)
    off = max(abs(v - c) for points, _, (k,) in draws for v, c in zip(points[0], OBJECTS[k, :2].tolist(), strict=True))
    assert off == 0 if strategy == "centre" else 1 < off <= 2  # the middle half of 8 px reaches 2 px off the centre


def test_the_worst_false_positive_is_the_strongest_that_answers_for_nothing():
    """Strongest first: on an object, a poor box whose centre lies on an object, one on an ignored region, one on nothing."""
    boxes = torch.tensor([[10.0, 10, 8, 8], [13, 13, 8, 8], [55, 55, 6, 6], [30, 50, 8, 8], [50, 30, 8, 8]])
    scores, crowd = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([[55.0, 55.0, 10.0, 10.0]])
    assert worst_false_positive(boxes, scores, OBJECTS, crowd) == 3
    assert worst_false_positive(boxes, scores, OBJECTS, NOWHERE) == 2
    assert worst_false_positive(boxes[:2], scores[:2], OBJECTS, crowd) is None
    assert worst_false_positive(boxes, scores / 10, OBJECTS, crowd) is None  # none is confident
    assert worst_false_positive(boxes[:0], scores[:0], OBJECTS, crowd) is None
    assert worst_false_positive(boxes, scores, NOWHERE, NOWHERE) == 0  # without objects every query is wrong


def test_a_negative_click_says_not_this_inside_the_image():
    boxes = torch.cat([OBJECTS, torch.tensor([[70.0, 50.0, 8.0, 8.0]])])
    points, labels, clicked = following(answer(boxes, [0.9, 0.9, 0.3, 0.8]), target(), negatives=1.0)
    assert (points, labels, clicked) == ([[10, 40], [64, 50]], [1, 0], [2, -1])


def test_sets_of_different_lengths_are_padded_together():
    one, two = answer(OBJECTS[:1], [0.9]), answer(torch.cat([OBJECTS[:1], torch.tensor([[50.0, 50.0, 8.0, 8.0]])]), [0.9, 0.8])
    boxes = torch.cat([F.pad(one.pred_boxes, (0, 0, 0, 1)), two.pred_boxes])
    logits = torch.cat([F.pad(one.pred_logits, (0, 1), value=-20.0), two.pred_logits])
    both = replace(one, pred_boxes=boxes, pred_logits=logits, valid=torch.tensor([[True, False], [True, True]]))
    prompts = stack_prompts([(torch.tensor([[10.0, 10.0]]), torch.tensor([1]))] * 2, [0, 0])
    config = PromptConfig(cycles=2, negatives=1.0)
    got, targets = next_prompts(both, prompts, [target(OBJECTS[:1])] * 2, config, (64, 64), torch.Generator())
    assert got.labels.tolist() == [[1, -1], [1, 0]] and got.image_index.tolist() == [0, 0]
    assert [t.clicked.tolist() for t in targets] == [[0, -1], [0, -1]]
