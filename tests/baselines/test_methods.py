"""`dealkit.baselines.methods`: what becomes of the labels of a batch, worked out by hand, and when."""

from dataclasses import replace

import pytest
import torch
from coco_cases import labels_of

from dealkit.baselines.detector import Detector
from dealkit.baselines.methods import (
    add_labels,
    agreed,
    ask_teacher,
    blob_sizes,
    boxes_round,
    label_correction,
    label_quality,
    labelled_score,
    mean_teacher,
    method_hook,
    mining,
    point_teacher,
    train_with,
)
from dealkit.config import DataConfig, DetectorConfig, DetectorRun, MethodConfig, TrainConfig
from dealkit.predict.detections import Detections

pytestmark = pytest.mark.usefixtures("float32_cpu")


def found(*rows):
    """Detections of (x1, y1, x2, y2, score) rows."""
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Detections(boxes=rows[:, :4], scores=rows[:, 4], classes=torch.zeros(len(rows), dtype=torch.int64))


class Teacher:
    """Stands for a detector: finds the same boxes whatever it is shown, and remembers what that was."""

    def __init__(self, detections):
        self.detections, self.seen = detections, []

    def detect(self, images):
        self.seen += images
        return [self.detections] * len(images)


def image(size=64):
    return torch.zeros(3, size, size, dtype=torch.uint8)


def use(method, target, teacher, done, **settings):
    hook = method_hook(MethodConfig(method=method, teacher_start=0.5, **settings))
    return hook([target], [image()], teacher, done, torch.Generator())[0]


def test_a_label_moves_to_the_mean_of_the_boxes_near_it():
    """Two boxes, 2 px to the right with score 0.6 and 4 px with 0.2: mean 2.5 px, of which the best score takes 0.6: 1.5 px."""
    target = labels_of([10, 10, 20, 20], [40, 40, 44, 44])
    out = label_correction(target, found([12, 10, 22, 20, 0.6], [14, 10, 24, 20, 0.2], [60, 60, 64, 64, 0.9]))
    assert out.boxes[0].tolist() == pytest.approx([11.5, 10, 21.5, 20])
    assert out.boxes[1].tolist() == [40, 40, 44, 44]  # nothing near it
    assert torch.equal(label_correction(target, found()).boxes, target.boxes)
    assert len(label_correction(labels_of(), found([0, 0, 4, 4, 0.9])).boxes) == 0


def test_what_is_about_a_labelled_object_is_no_further_label():
    """IoU of [0, 0, 10, 10] with [4, 0, 14, 10] is 60 / 140 = 0.43, with [6, 0, 16, 10] 40 / 160 = 0.25; near is 0.3."""
    target = labels_of([0, 0, 10, 10], crowd=[[50, 50, 60, 60]])
    out = add_labels(target, found([4, 0, 14, 10, 0.9], [6, 0, 16, 10, 0.8], [30, 30, 34, 34, 0.3]), high=0.5, low=0.2)
    assert out.boxes.tolist() == [[0, 0, 10, 10], [6, 0, 16, 10]] and out.labels.tolist() == [0, 0]
    assert out.crowd.tolist() == [[50, 50, 60, 60], [30, 30, 34, 34]]
    detections = replace(found([0, 0, 4, 4, 0.9]), classes=torch.tensor([3]))
    assert add_labels(labels_of(), detections, high=0.5, low=0.2).labels.tolist() == [3]


def test_only_unlabelled_images_get_labels_of_the_teacher():
    """The score on the label is 0.6: labels from 0.6 on, ignored from 0.36 on."""
    detections = found([0, 0, 4, 4, 0.9], [20, 20, 24, 24, 0.4], [30, 30, 34, 34, 0.3])
    labelled, bare, unknown = labels_of([40, 40, 50, 50]), labels_of(), labels_of(crowd=[[0, 0, 64, 64]])
    targets, teacher = [labelled, bare, unknown], [found([40, 40, 50, 50, 0.6]), detections, detections]
    out = mean_teacher(targets, [image()] * 3, teacher, high=1.0, low=0.6)
    assert out[0] is labelled and out[1] is bare
    assert out[2].boxes.tolist() == [[0, 0, 4, 4]] and out[2].crowd.tolist() == [[20, 20, 24, 24]]
    assert mean_teacher([unknown], [image()], [detections], high=1.0, low=0.6)[0] is unknown, "nothing to compare with"
    unsure = mean_teacher(targets, [image()] * 3, teacher, high=1.0, low=0.6, sure=0.95)[2]
    assert len(unsure.boxes) == 0 and unsure.crowd.tolist() == [[0, 0, 4, 4], [20, 20, 24, 24]], "no label, but no background"


def test_a_part_of_an_object_is_no_object():
    """A box within a label, one that holds a label, and one within a stronger box of the teacher."""
    detections = found([12, 12, 16, 16, 0.9], [0, 0, 30, 30, 0.8], [40, 40, 60, 60, 0.7], [42, 42, 46, 46, 0.6])
    out = add_labels(labels_of([10, 10, 20, 20]), detections, high=0.5, low=0.2)
    assert out.boxes.tolist() == [[10, 10, 20, 20], [40, 40, 60, 60]] and len(out.crowd) == 0


def test_mining_asks_for_scores_relative_to_those_of_labelled_objects():
    """Scores on labels 0.2 and 0.4 of two: torch's median is the lower, 0.2; labels from 0.1 on, ignored from 0.04 on."""
    targets = [labels_of([0, 0, 10, 10]), labels_of([0, 0, 10, 10])]
    first = found([0, 0, 10, 10, 0.2], [30, 30, 40, 40, 0.12], [50, 50, 60, 60, 0.05])
    second = found([0, 0, 10, 10, 0.4], [30, 30, 40, 40, 0.03])
    assert labelled_score(targets, [first, second]) == pytest.approx(0.2)
    out = mining(targets, [first, second], high=0.5, low=0.2)
    assert out[0].boxes.tolist() == [[0, 0, 10, 10], [30, 30, 40, 40]] and out[0].crowd.tolist() == [[50, 50, 60, 60]]
    assert out[1].boxes.tolist() == [[0, 0, 10, 10]] and len(out[1].crowd) == 0
    assert mining([labels_of()], [first], high=0.5, low=0.2)[0].boxes.tolist() == []  # nothing to compare with
    assert labelled_score([labels_of([30, 0, 40, 10])], [first]) is None


@pytest.mark.parametrize("side", [6, 12, 24, 48])
def test_the_size_of_a_square_is_seen_from_its_centre(side):
    pixels = image(96) + 60
    low = 48 - side // 2
    pixels[0, low : low + side, low : low + side] = 200
    assert blob_sizes(pixels, torch.tensor([[48.0, 48.0]])).tolist() == [side]
    assert len(blob_sizes(pixels, torch.zeros(0, 2))) == 0
    assert blob_sizes(pixels, torch.tensor([[0.0, 96.0]])).shape == (1,)  # in the corner


def test_boxes_end_at_the_border_and_are_never_empty():
    boxes = boxes_round(torch.tensor([[2.0, 30.0], [64.0, 64.0]]), torch.tensor([[10.0, 6.0], [0.0, 0.0]]), (64, 64))
    assert boxes[0].tolist() == [0, 27, 7, 33]
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_point_gets_the_size_of_the_box_picked_on_it_and_stays_the_centre():
    """Worth of three boxes that hold the point (20, 20): centred 0.5; offset 2 of 10, 0.9 x exp(-0.4) = 0.60; low score 0.1."""
    target = labels_of([19, 19, 21, 21])
    boxes = found([15, 16, 25, 24, 0.5], [17, 15, 27, 25, 0.9], [18, 18, 22, 22, 0.1], [40, 40, 60, 60, 0.99])
    first = point_teacher(target, image(), None, size=16.0, low=0.2)
    assert first.boxes.tolist() == [[12, 12, 28, 28]]
    assert point_teacher(target, image(), boxes, size=16.0, low=0.2).boxes.tolist() == [[15, 15, 25, 25]]
    assert point_teacher(target, image(), found(), size=16.0, low=0.2).boxes.tolist() == [[12, 12, 28, 28]]
    far = found([14, 14, 40, 40, 0.9])  # the centre is 7 px off, of 26: 0.27 of the size
    assert point_teacher(target, image(), far, size=16.0, low=0.2).boxes.tolist() == [[7, 7, 33, 33]]
    assert len(point_teacher(labels_of(), image(), boxes, size=16.0, low=0.2).boxes) == 0


def test_the_size_of_the_annotated_box_does_not_matter_to_the_point_teacher():
    small, large = labels_of([19, 19, 21, 21]), labels_of([10, 10, 30, 30])
    a, b = (point_teacher(t, image(), None, size=0.0, low=0.2).boxes for t in (small, large))
    assert torch.equal(a, b)


def test_the_teacher_is_shown_the_mirror_image_and_answers_in_the_frame_of_the_image():
    pixels = image()
    pixels[:, :, :4] = 255
    teacher = Teacher(found([50, 10, 60, 20, 0.9]))
    out = ask_teacher(teacher, [pixels], mirrored=True)[0]
    assert out.boxes.tolist() == [[4, 10, 14, 20]]  # 64 - 60, 64 - 50
    assert torch.equal(teacher.seen[0], pixels.flip(2))
    assert ask_teacher(teacher, [pixels])[0].boxes.tolist() == [[50, 10, 60, 20]]


def test_an_enlarged_view_is_answered_in_the_frame_of_the_image():
    teacher = Teacher(found([15, 30, 45, 60, 0.9]))
    out = ask_teacher(teacher, [image()], zoom=1.5)[0]
    assert out.boxes.tolist() == [[10, 20, 30, 40]] and teacher.seen[0].shape == (3, 96, 96)
    assert teacher.detections.boxes.tolist() == [[15, 30, 45, 60]], "its own answer is not changed"


def test_two_views_vote_on_a_box():
    """IoU of the first pair 80 / 120: mean at 0.2 / 0.8 of the way, score 0.4. The second has none: half of its score."""
    first = found([40, 40, 50, 50, 0.7], [10, 10, 20, 20, 0.6])
    out = agreed(first, found([12, 10, 22, 20, 0.2], [0, 0, 4, 4, 0.9]))
    assert out.boxes[0].tolist() == pytest.approx([10.5, 10, 20.5, 20]) and out.scores.tolist() == pytest.approx([0.4, 0.35])
    assert out.boxes[1].tolist() == [40, 40, 50, 50] and len(out.classes) == 2
    assert agreed(first, found()).scores.tolist() == pytest.approx([0.35, 0.3]) and len(agreed(found(), first)) == 0


def test_the_scale_teacher_doubts_what_it_finds_in_one_view_only():
    """The box of the mirrored view lies elsewhere in the enlarged one: half of its score, relative to half of that on labels."""
    teacher = Teacher(found([27, 10, 37, 20, 0.5], [12, 10, 22, 20, 0.4]))  # the first is its own mirror image
    targets = [labels_of([27, 10, 37, 20]), labels_of(crowd=[[0, 0, 64, 64]])]
    hook = method_hook(MethodConfig(method="scale_teacher", teacher_start=0.0, teacher_low=1.0, teacher_sure=0.0))
    out = hook(targets, [image()] * 2, teacher, 1.0, torch.Generator())
    assert out[0] is targets[0] and out[1].boxes.tolist() == [[27, 10, 37, 20]]
    assert [tuple(seen.shape) for seen in teacher.seen] == [(3, 64, 64)] * 2 + [(3, 96, 96)] * 2


def test_only_labels_that_a_method_makes_are_judged():
    """Mining adds [12, 40, 22, 50], an object of two without a label: precision 1, recall a half; corrected labels all count."""
    teacher = Teacher(found([12, 10, 22, 20, 0.5], [12, 40, 22, 50, 0.5]))
    given, objects = labels_of([42, 10, 52, 20]), torch.tensor([[42.0, 10, 52, 20], [42, 40, 52, 50], [0, 0, 5, 5]])
    batch = [([given], [image()], [objects])]
    assert label_quality(MethodConfig(method="mining"), teacher, batch) == {"label_precision": 1.0, "label_recall": 0.5}
    judged = label_quality(MethodConfig(method="label_correction"), Teacher(found()), batch)
    assert judged == {"label_precision": 1.0, "label_recall": pytest.approx(1 / 3)}
    nothing = label_quality(MethodConfig(method="mining"), Teacher(found()), [([labels_of()], [image()], [torch.zeros(0, 4)])])
    assert nothing == {"label_precision": 0.0, "label_recall": 0.0}


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("label_correction", labels_of([10, 10, 20, 20]), [[11, 10, 21, 20]]),  # 2 px x 0.5
        ("mining", labels_of([42, 10, 52, 20]), [[42, 10, 52, 20]]),
        ("point_teacher", labels_of([16, 14, 18, 16]), [[12, 10, 22, 20]]),
        ("point_patterns", labels_of([16, 14, 18, 16]), [[12, 10, 22, 20]]),
    ],
)
def test_a_method_asks_its_teacher_from_its_start_on(method, target, expected):
    teacher = Teacher(found([12, 10, 22, 20, 0.5]))
    before = use(method, target, teacher, 0.49)
    assert teacher.seen == [] and (method.startswith("point") or before is target)
    after = use(method, target, teacher, 0.5)
    assert len(teacher.seen) == 1 and after.boxes.tolist() == expected


def test_the_scores_and_sizes_of_a_method_are_those_set():
    """The second box scores 0.7 of the one on the label; boxes are mirrored in the teacher's view."""
    teacher = Teacher(found([12, 10, 22, 20, 0.5], [12, 40, 22, 50, 0.35]))

    def labels(**settings):
        hook = method_hook(MethodConfig(method="mean_teacher", **settings))
        targets = [labels_of([42, 10, 52, 20]), labels_of(crowd=[[0, 0, 64, 64]])]
        out = hook(targets, [image()] * 2, teacher, 1.0, torch.Generator())[1]
        return out.boxes.tolist(), len(out.crowd)

    assert labels() == ([[42, 10, 52, 20]], 1) and labels(teacher_low=0.8) == ([[42, 10, 52, 20]], 0)
    assert labels(teacher_high=0.7) == ([[42, 10, 52, 20]], 1), "a label scores at least `teacher_sure`"
    assert labels(teacher_high=0.7, teacher_sure=0.3) == ([[42, 10, 52, 20], [42, 40, 52, 50]], 0)
    point = labels_of([16, 14, 18, 16])
    assert use("point_teacher", point, teacher, 1.0).boxes.tolist() == [[12, 10, 22, 20]]
    assert use("point_teacher", point, teacher, 1.0, teacher_least=0.6, point_size=20.0).boxes.tolist() == [[7, 5, 27, 25]]
    assert use("point_teacher", labels_of([31, 31, 33, 33]), teacher, 0.0, point_size=20.0).boxes.tolist() == [[22, 22, 42, 42]]


@pytest.fixture
def run():
    return DetectorRun(
        detector=DetectorConfig(backbone="pico", hidden_dim=32),
        data=DataConfig(size=64, workers=0),
        train=TrainConfig(steps=2, batch_size=1, warmup=1, log_every=1, seed=1),
        method=MethodConfig(method="point_teacher", teacher_start=0.3),
    )


def test_a_run_resumes_with_its_method(run, tmp_path):
    whole = train_with(run, tmp_path / "whole")
    train_with(run, tmp_path / "run", stop_at=1)
    again = train_with(run, tmp_path / "run", resume=True)
    assert [line["loss"] for line in again] == [line["loss"] for line in whole]
    plain = train_with(replace(run, method=MethodConfig()), tmp_path / "plain", stop_at=1)
    assert plain[0]["loss"] != whole[0]["loss"], "the method is the one of the run"


def test_pasted_patterns_keep_their_boxes_and_points_do_not(run, tmp_path, make_sources, monkeypatch):
    """A hook that gives every object the box [0, 0, 7, 7]: what was pasted keeps its own."""
    root, learned, loss = make_sources(one=[[(5, [10 + 20 * i, 12, 8, 8], 0) for i in range(3)]] * 3), [], Detector.loss
    monkeypatch.setattr(Detector, "loss", lambda self, images, targets: learned.extend(targets) or loss(self, images, targets))
    data = DataConfig(coco=(str(root / "one" / "train.json"),), synthetic=0.0, size=96, workers=0)
    run = replace(run, data=data, method=MethodConfig(method="point_patterns"), train=replace(run.train, batch_size=2))
    fixed = torch.tensor([0.0, 0.0, 7.0, 7.0])
    train_with(run, tmp_path / "run", hook=lambda targets, *_: [replace(t, boxes=fixed.expand_as(t.boxes)) for t in targets])
    points = [(target.boxes == fixed).all(1) for target in learned]
    assert len(learned) == 4 and any(of.any() for of in points) and all((~of).any() for of in points)
    told_apart = replace(run, detector=replace(run.detector, categories=("bolt",)))
    with pytest.raises(ValueError, match="MethodConfig.method: point_patterns"):
        train_with(told_apart, tmp_path / "no")
