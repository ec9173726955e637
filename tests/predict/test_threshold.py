"""`dealkit.predict.threshold`: cuts worked out by hand, a bad count, few scores, and the predictor that uses them."""

import math

import pytest
import torch
from conftest import noise

from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor
from dealkit.predict.threshold import HIGHEST, LOWEST, adaptive_threshold, check_threshold, otsu_cut

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.mark.parametrize(("scores", "cut"), [([], 0.0), ([0.7], 0.0), ([0.7, 0.3], 0.5), ([0.4, 0.4, 0.4], 0.4)])
def test_few_or_equal_scores_have_a_cut_too(scores, cut):
    assert otsu_cut(torch.tensor(scores)) == pytest.approx(cut)


def test_otsus_cut_is_the_best_of_all_splits():
    scores = torch.rand(60, generator=torch.Generator().manual_seed(0)).sort(descending=True).values.double()
    within = [k * scores[:k].var(correction=0) + (60 - k) * scores[k:].var(correction=0) for k in range(1, 60)]
    k = 1 + min(range(59), key=lambda i: within[i])
    assert otsu_cut(scores) == pytest.approx(float(scores[k - 1] + scores[k]) / 2)


def test_the_cut_falls_as_the_density_sees_more_objects():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])  # they sum to 3, Otsu's cut is 0.5
    cuts = [adaptive_threshold(scores, count) for count in (1.5, 3.0, 6.0, 12.0)]
    assert cuts == pytest.approx([0.45 * 2**0.3, 0.45, 0.45 * 0.5**0.3, 0.45 * 0.25**0.3])


@pytest.mark.parametrize(("count", "cut"), [(1e9, LOWEST), (0.0, HIGHEST)])
def test_a_bad_count_neither_floods_nor_empties_the_result(count, cut):
    assert adaptive_threshold(torch.tensor([0.9, 0.8, 0.7, 0.3, 0.2, 0.1]), count) == cut


@pytest.mark.parametrize(
    ("scores", "count", "said"),
    [
        (torch.tensor([0.1, 0.2]), 1.0, r"scores: expected \(N,\), strongest first"),
        (torch.zeros(2, 2), 1.0, r"got \(2, 2\)"),
        (torch.zeros(2), math.nan, "count: expected a finite number of at least 0, got nan"),
        (torch.zeros(2), -1.0, "got -1.0"),
        (torch.zeros(2), math.inf, "got inf"),
    ],
)
def test_scores_out_of_order_and_impossible_counts_are_refused(scores, count, said):
    with pytest.raises(ValueError, match=said):
        adaptive_threshold(scores, count)


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


def test_detections_without_a_count_have_no_cut_of_their_own():
    with pytest.raises(ValueError, match="count: expected the number that the density sums to, got None"):
        Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0)).adaptive()


@pytest.mark.parametrize("points", [[[20, 30]], [[5, 5], [60, 40]]])
def test_an_adaptive_predictor_cuts_what_one_without_threshold_returns(tiny_model, points):
    every, adaptive = (Predictor(tiny_model, threshold=t) for t in (0.001, "adaptive"))
    every.set_image(noise(70, 90)), adaptive.set_image(noise(70, 90))
    found, shown = every.predict(points), adaptive.predict(points)
    assert 1 <= int(found.clicked.sum()) <= len(points) and torch.equal(shown.boxes, found.adaptive().boxes)
    assert shown.clicked.sum() == found.clicked.sum() and len(shown) <= len(found)
