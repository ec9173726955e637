"""`dealkit.predict.threshold`: cuts worked out by hand, few scores, bad ones, and the predictor that uses them."""

import pytest
import torch
from conftest import noise

from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor
from dealkit.predict.threshold import adaptive_threshold, check_threshold

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], 0.04),  # the least
        ([0.0, 0.0], 0.04),
        ([0.05], 0.04),
        ([0.5], 0.25),
        ([0.2, 0.1], 0.5 * (0.2**4 + 0.1**4) / (0.2**3 + 0.1**3)),
        ([0.1, 0.2], 0.5 * (0.2**4 + 0.1**4) / (0.2**3 + 0.1**3)),  # in any order
    ],
)
def test_the_cut_is_half_of_the_usual_score(scores, expected):
    assert adaptive_threshold(torch.tensor(scores)) == pytest.approx(expected, rel=1e-5)


def test_weak_detections_hardly_lower_the_cut_and_doubtful_kinds_are_cut_lower():
    found = torch.full((10,), 0.4)
    assert adaptive_threshold(torch.cat([found, torch.full((200,), 0.02)])) == pytest.approx(0.2, rel=0.01)
    assert adaptive_threshold(found / 4) == pytest.approx(0.05)


def test_scores_of_several_rows_are_refused():
    with pytest.raises(ValueError, match=r"scores: expected \(N,\), got \(2, 2\)"):
        adaptive_threshold(torch.zeros(2, 2))


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
