"""`dealkit.predict.threshold`: cuts worked out by hand, a bad count, few scores, and the predictor that uses them."""

import pytest
import torch
from conftest import noise

from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor
from dealkit.predict.threshold import HIGHEST, LOWEST, USUAL, adaptive_threshold, check_threshold

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.mark.parametrize("scores", [[], [0.7], [0.7, 0.6], [0.02, 0.001], [0.25, 0.25, 0.25]])
def test_without_a_gap_in_its_range_the_cut_is_the_usual_one_or_among_equals(scores):
    cut = adaptive_threshold(torch.tensor(scores))
    assert cut == pytest.approx(0.25 if scores[:1] == [0.25] else USUAL)


def test_the_cut_lies_in_the_widest_gap_less_its_distance_from_the_usual_one():
    """0.8 to 0.25: out of range; 0.25 to 0.1: a gap of 0.92 at 0.158, 0.23 off; 0.1 to 0.03: 1.2 at 0.055, 1.3 off."""
    scores = torch.tensor([0.8, 0.25, 0.1, 0.03])
    assert 0.916 - 0.4 * 0.235 > 1.204 - 0.4 * 1.295
    assert adaptive_threshold(scores) == pytest.approx((0.25 * 0.1) ** 0.5)
    assert adaptive_threshold(torch.tensor([0.8, 0.12, 0.1, 0.015])) == pytest.approx((0.1 * 0.015) ** 0.5)
    assert (
        LOWEST <= adaptive_threshold(torch.rand(60, generator=torch.Generator().manual_seed(0)).sort().values.flip(0)) <= HIGHEST
    )


@pytest.mark.parametrize("scores", [torch.tensor([0.1, 0.2]), torch.zeros(2, 2)])
def test_scores_out_of_order_are_refused(scores):
    with pytest.raises(ValueError, match=r"scores: expected \(N,\), strongest first"):
        adaptive_threshold(scores)


@pytest.mark.parametrize("threshold", ["automatic", -0.1, 1.5, float("nan"), True, None])
def test_a_threshold_is_a_score_or_the_word(threshold):
    with pytest.raises(ValueError, match="threshold: expected a score, 0 to 1, or 'adaptive', got"):
        check_threshold(threshold)


def test_a_predictor_refuses_another_word_before_it_reads_the_checkpoint():
    with pytest.raises(ValueError, match="threshold: expected"):
        Predictor("none.safetensors", threshold="automatic")


def test_what_was_clicked_is_kept_however_weak():
    clicked, scores = torch.tensor([False, False, False, True]), torch.tensor([0.8, 0.7, 0.1, 0.05])
    found = Detections(boxes=torch.arange(16.0).reshape(4, 4), scores=scores, clicked=clicked, count=2.0)
    kept = found.adaptive()
    assert kept.scores.tolist() == pytest.approx([0.8, 0.7, 0.05]) and kept.clicked.tolist() == [False, False, True]
    assert kept.boxes[2].tolist() == [12, 13, 14, 15]
    assert found.above(0.5).clicked.tolist() == [False, False]  # a fixed threshold is the lowest score shown


@pytest.mark.parametrize("points", [[[20, 30]], [[5, 5], [60, 40]]])
def test_an_adaptive_predictor_cuts_what_one_without_threshold_returns(tiny_model, points):
    every, adaptive = (Predictor(tiny_model, threshold=t) for t in (0.001, "adaptive"))
    every.set_image(noise(70, 90)), adaptive.set_image(noise(70, 90))
    found, shown = every.predict(points), adaptive.predict(points)
    assert 1 <= int(found.clicked.sum()) <= len(points) and torch.equal(shown.boxes, found.adaptive().boxes)
    assert shown.clicked.sum() == found.clicked.sum() and len(shown) <= len(found)
