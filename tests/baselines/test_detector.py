"""`dealkit.baselines.detector`: detectors of two libraries on DEAL's data, pre-processing and training loop."""

import math
from dataclasses import replace

import pytest
import torch
from coco_cases import labels_of
from conftest import bfloat16, losses
from torchvision.models.detection import FCOS

from dealkit.baselines.detector import (
    Detector,
    class_lookup,
    detector_categories,
    hide,
    is_detector,
    load_detector,
    objects_of,
    start_from,
    unlabelled,
)
from dealkit.baselines.methods import train_with
from dealkit.baselines.networks import CentredAnchors, build_torchvision
from dealkit.baselines.scoring import evaluate_detector
from dealkit.config import DETECTORS, DataConfig, DetectorConfig, DetectorRun, MethodConfig, TrainConfig, load_config
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import make_scene, write_coco
from dealkit.data.transforms import IMAGENET_MEAN, IMAGENET_STD, pad_to, to_input
from dealkit.device import autocast
from dealkit.model.checkpoint import load_model, save_model
from dealkit.model.encoder import STRIDES, LiteBackbone
from dealkit.train.loop import learning_rate, parameter_groups

pytestmark = pytest.mark.usefixtures("float32_cpu")

every = pytest.mark.parametrize("name", DETECTORS)


def tiny(name="fcos", **changes):
    return DetectorConfig(**{"detector": name, "backbone": "pico", "hidden_dim": 32, "queries": 60, **changes})


def made(name="fcos", **changes):
    torch.manual_seed(0)
    return Detector(tiny(name, **changes)).eval()


def scenes(count=2, size=64):
    return [make_scene(i, size_hw=(size, size), object_size=12, num_objects=4) for i in range(count)]


# Same input


@every
def test_the_network_sees_what_deal_sees(name):
    """In training and in use: normalised, padded with zeros, neither resized nor normalised again."""
    detector, seen = made(name), []
    first = detector.net.model.backbone if name == "rtdetr" else detector.net.backbone
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((50, 70), (64, 33))]
    expected = pad_to([to_input(image) for image in images])[0]
    if name == "rtdetr":  # its published weights are for colours from 0 to 1; padding is the mean colour
        expected = expected * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
        assert torch.allclose(expected[0, :, :50, :70], images[0] / 255, atol=1e-6)
    detector.detect(images)
    detector.train().loss(images, [labels_of([10, 10, 20, 20])] * 2)
    assert [tuple(x.shape) for x in seen] == [(2, 3, 64, 96)] * 2
    assert all(torch.equal(x, expected) for x in seen)


@every
def test_a_lite_backbone_sees_what_it_sees_in_deal_and_learns_slowly(name):
    detector, seen = made(name, backbone="lite0"), []
    backbone = next(part for part in detector.modules() if isinstance(part, LiteBackbone))
    backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    detector.detect([image])
    torch.testing.assert_close(seen[0], pad_to([to_input(image)])[0], atol=1e-5, rtol=0)
    terms = detector.train().loss([image], [labels_of([10, 10, 20, 20])])
    torch.stack(list(terms.values())).sum().backward()
    learned = {id(p) for p in detector.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    slow = {id(p) for g in parameter_groups(detector, TrainConfig()) if g["share"] == 0.2 for p in g["params"]}
    of_backbone = {id(p) for p in backbone.parameters() if p.requires_grad}
    assert slow == of_backbone and len(slow & learned) > 0.9 * len(slow)
    assert not any(p.requires_grad for p in backbone.net.stem.parameters())


def test_rtdetr_reads_large_images_in_tiles_of_the_size_it_learned():
    """What a tile shows is found where the tile lies; a smaller image is padded to a tile."""
    whole, tiled = made("rtdetr"), made("rtdetr", tile=64)
    image = torch.zeros(3, 64, 112, dtype=torch.uint8)  # two tiles, 16 pixels shared
    image[:, :, 48:] = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    right, both = whole.detect([image[:, :, 48:]])[0], tiled.detect([image])[0]
    moved = right.boxes[right.boxes[:, 0] > 20][:5] + torch.tensor([48.0, 0, 48, 0])
    distance = (moved[:, None] - both.boxes).abs().amax(2).amin(1)
    assert len(moved) == 5 and (distance < 1e-3).sum() >= 3, "those that nothing of the other tile covers"
    assert (both.scores.diff() <= 0).all() and len(both.classes) == len(both)
    small, padded = image[:, :60, 50:110], torch.zeros(3, 64, 64)
    padded[:, :60, :60] = to_input(small)
    with torch.no_grad():
        expected = whole._rtdetr_rows([padded])[0]["scores"]
    found = tiled.detect([small])[0].scores
    assert len(found) and (found[:, None] - expected).abs().amin(1).max() < 1e-5


def test_torchvision_alone_gives_the_same_boxes_and_losses():
    """FCOS put together as its documentation says, with its own normalisation, on a square image it need not resize."""
    detector = made(max_detections=100)
    with torch.no_grad():  # untrained, most boxes have no area, and those we drop
        detector.net.head.regression_head.bbox_reg.bias.fill_(1.0)
    strides = tuple((s,) for s in STRIDES)
    own = FCOS(
        build_torchvision(detector.config).backbone,
        1,
        min_size=96,
        max_size=96,
        anchor_generator=CentredAnchors(strides, ((1.0,),) * 4),
        score_thresh=0.001,
        detections_per_img=100,
        topk_candidates=200,
    ).eval()
    own.load_state_dict(detector.net.state_dict())
    sample = scenes(1, 96)[0]
    colours, target = sample.image / 255, objects_of(sample, {})
    with torch.no_grad():
        expected, found = own([colours])[0], detector.detect([sample.image])[0]
        assert len(found) > 50
        assert torch.allclose(found.boxes, expected["boxes"], atol=1e-3)
        assert torch.allclose(found.scores, expected["scores"], atol=1e-5)
        losses = own.train()([colours], [{"boxes": target.boxes, "labels": target.labels}])
        ours = detector.train().loss([sample.image], [target])
    assert {k.removeprefix("loss_"): v.item() for k, v in ours.items()} == pytest.approx(
        {k: v.item() for k, v in losses.items()}, rel=1e-4
    )


# What a library gets wrong in bfloat16, and at a stride


@every
def test_losses_and_boxes_are_float32_under_autocast(name, monkeypatch):
    detector, sample = made(name), scenes(1, 96)[0]
    target = objects_of(sample, {})
    with torch.no_grad():
        plain = detector.detect([sample.image])[0]
        bfloat16(monkeypatch, faster=True)
        short = detector.detect([sample.image])[0]
        with autocast(torch.device("cpu")):
            terms = detector.train().loss([sample.image], [target])
    assert {v.dtype for v in terms.values()} == {torch.float32} == {short.boxes.dtype}
    assert not torch.equal(short.scores[:20], plain.scores[:20])  # it did run in bfloat16
    assert (short.boxes.bfloat16().float() != short.boxes).float().mean() > 0.5  # boxes are finer than bfloat16


def test_an_object_of_four_whole_pixels_holds_a_point_wherever_it_is():
    detector = made()
    image = torch.zeros(1, 3, 64, 64)
    maps = [torch.zeros(1, 32, 64 // s, 64 // s) for s in STRIDES]
    anchors = detector.net.anchor_generator(*detector.net.transform(list(image))[:1], maps)[0]
    points = (anchors[:256, :2] + anchors[:256, 2:]) / 2  # stride 4: 16 x 16
    assert points[0].tolist() == [1.75, 1.75] and points[-1].tolist() == [61.75, 61.75]
    for x in range(4):
        for y in range(4):
            low = torch.tensor([20.0 + x, 20.0 + y])
            assert ((points > low) & (points < low + 4)).all(1).sum() == 1


# Labels


def test_crowd_is_painted_over_but_not_its_objects():
    image = torch.ones(3, 8, 8)
    expected = image.clone()
    expected[:, :6, :6], expected[:, 2:4, 2:4], expected[:, 7, 7] = 0, 1, 0  # a part of a pixel is a pixel
    assert torch.equal(hide(image, labels_of([2, 2, 4, 4], crowd=[[0, 0, 6, 6], [7.2, 7.2, 7.8, 7.8]])), expected)


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "fcos"])
def test_what_a_crowd_region_shows_changes_no_loss(name):
    detector = made(name)
    target = labels_of([4, 4, 16, 16], crowd=[[32, 32, 60, 60]])
    first = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    second = first.clone()
    second[:, 32:60, 32:60] = 255
    losses = []
    for image in (first, second):
        torch.manual_seed(1)  # sampling and denoising are random
        losses.append({k: v.item() for k, v in detector.train().loss([image], [target]).items()})
    assert losses[0] == losses[1]


def test_points_in_a_crowd_region_have_no_part_in_the_loss_of_fcos():
    """Without labels every point is background: the region takes its share of the cost away, and of the gradient."""
    detector, image = made("fcos").train(), torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)

    def classification(*labels, crowd):
        return detector.loss([image], [labels_of(*labels, crowd=crowd)])["loss_classification"]

    everywhere, half = [[0, 0, 64, 64]], [[0, 0, 32, 64]]
    nothing, some, all_ = (classification(crowd=region) for region in ([], half, everywhere))
    assert all_ < 1e-6 < 0.3 * nothing < some < 0.7 * nothing
    assert classification([4, 4, 16, 16], crowd=everywhere) > 1e-3, "points on an object count wherever they are"
    (gradient,) = torch.autograd.grad(all_, detector.net.head.classification_head.cls_logits.bias)
    assert gradient.abs().max() < 1e-6


def test_an_unlabelled_image_is_crowd_all_over():
    image = torch.zeros(3, 64, 64)
    assert unlabelled(labels_of(crowd=[[0, 0, 64, 64]]), image)
    assert unlabelled(labels_of(crowd=[[0, 0, 32, 32]]), image)  # a crop that reaches beyond the image at the smallest zoom
    assert not unlabelled(labels_of(crowd=[[0, 0, 16, 16]]), image)
    assert not unlabelled(labels_of([1, 1, 5, 5], crowd=[[0, 0, 64, 64]]), image)
    assert not unlabelled(labels_of(), image)  # labelled: there is nothing


@every
def test_images_without_objects_are_ordinary(name):
    detector = made(name)
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    for targets in ([labels_of(), labels_of()], [labels_of(), labels_of([3, 3, 9, 9])]):
        terms = detector.train().loss(images, targets)
        assert all(math.isfinite(v.item()) for v in terms.values())
        sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)
    found = detector.eval().detect([torch.zeros(3, 40, 48, dtype=torch.uint8)])[0]
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([48, 40, 48, 40])).all()


@pytest.mark.parametrize("name", ["fcos", "rtdetr"])
def test_more_objects_than_an_image_may_have_are_learned(name):
    corner = torch.cartesian_prod(torch.arange(0.0, 160, 4), torch.arange(0.0, 160, 4))  # 40 x 40
    target = labels_of(*torch.cat([corner, corner + 3], dim=1).tolist())
    with torch.no_grad():
        terms = made(name, max_detections=1500).train().loss([torch.zeros(3, 160, 160, dtype=torch.uint8)], [target])
    assert all(math.isfinite(value) for value in terms.values())


def test_every_side_of_a_first_box_of_fcos_can_be_learned():
    """Its sides pass a ReLU: one that starts below 0 everywhere has no gradient, and stays."""
    detector = made()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    detector.train().loss([image], [labels_of([8, 8, 24, 20], [40, 40, 47, 50])])["loss_bbox_regression"].backward()
    assert (detector.net.head.regression_head.bbox_reg.bias.grad != 0).all()
    with torch.no_grad():
        maps = detector.net.backbone(to_input(image)[None])
        sides = detector.net.head(list(maps.values()))["bbox_regression"]
    assert (sides > 0).all() and sides.mean().item() == pytest.approx(1.0, abs=0.1)


def test_no_more_than_the_most_detections_are_returned():
    detector = made(max_detections=1500)
    with torch.no_grad():  # every point finds the 4 px round it, so that none covers another
        detector.net.head.regression_head.bbox_reg.weight.zero_()
        detector.net.head.regression_head.bbox_reg.bias.fill_(0.5)
    found = detector.detect([torch.randint(0, 256, (3, 192, 192), dtype=torch.uint8)])[0]  # 48 x 48 points at stride 4
    assert len(found) == 1500
    detector.net.detections_per_img = 20
    assert len(detector.detect([torch.zeros(3, 64, 64, dtype=torch.uint8)])[0]) == 20


# Categories


def test_categories_are_known_by_name_whatever_the_file_counts(make_coco):
    file = make_coco("plant", [[(5, [10, 12, 6, 8], 0), (9, [70, 10, 10, 10], 0), (9, [30, 30, 9, 9], 1)]])
    data = DataConfig(coco=(str(file),), synthetic=0.0)
    assert detector_categories(data) == ("bolt", "nut")
    run = DetectorRun(detector=tiny(categories=("nut", "bolt")), data=data)
    lookup = class_lookup(run)
    assert lookup["plant"].tolist() == [1, 0]
    sample = CocoFolder(file, file.parent / "images")[0]
    target = objects_of(sample, lookup)
    assert target.labels.tolist() == [1, 0] and target.crowd.tolist() == [[30, 30, 39, 39]]
    assert objects_of(sample, {}).labels.tolist() == [0, 0]
    with pytest.raises(ValueError, match="plant: category 'bolt' is not one of nut"):
        class_lookup(replace(run, detector=tiny(categories=("nut",))))


@every
def test_classes_are_learned_and_returned_as_indices(name):
    detector = made(name, categories=("a", "b", "c"))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    target = replace(labels_of([4, 4, 16, 16], [30, 30, 40, 44]), labels=torch.tensor([0, 2]))
    terms = detector.train().loss([image], [target])
    sum(terms.values()).backward()
    found = detector.eval().detect([image])[0]
    assert found.classes.dtype == torch.int64 and 0 <= int(found.classes.min()) <= int(found.classes.max()) <= 2
    assert found.above(2.0).classes.tolist() == []  # they go with their boxes


def test_procedural_scenes_have_no_list_of_categories():
    with pytest.raises(ValueError, match="data.synthetic: expected 0 with categories"):
        DetectorRun(detector=tiny(categories=("a",)))


# Runs and checkpoints


@pytest.fixture
def run():
    train = TrainConfig(steps=2, batch_size=2, warmup=2, log_every=1, seed=1)
    return DetectorRun(detector=tiny(), data=DataConfig(size=64, workers=0), train=train)


@pytest.mark.parametrize("name", ["faster_rcnn", "rtdetr"])
def test_a_run_that_was_stopped_goes_on_with_the_losses_of_one_that_was_not(run, name, tmp_path):
    """These two draw samples and noise of their own, from torch's global source."""
    run = replace(run, detector=tiny(name))
    whole = train_with(run, tmp_path / "whole")
    train_with(run, tmp_path / "run", stop_at=1)
    plain = replace(run.data, mosaic=0.0, distractors=0.0)  # which a detector without prompts could not tell apart
    of_size = tiny(name, tile=64 if name == "rtdetr" else 0)
    assert load_config(tmp_path / "run" / "config.json") == replace(run, data=plain, detector=of_size)
    again = train_with(run, tmp_path / "run", resume=True)
    assert [line["step"] for line in again] == [1, 2] and losses(again) == losses(whole)
    terms = {k for k in again[0] if k.startswith("loss_")}
    assert all(sum(line[k] for k in terms) == pytest.approx(line["loss"], rel=1e-5) for line in again)


def test_unlabelled_images_are_passed_over(make_coco, run, tmp_path):
    file = make_coco("bare", [[(5, [0, 0, 90, 70], 1)]])
    bare = replace(run, data=replace(run.data, coco=(str(file),), synthetic=0.0))
    assert losses(train_with(bare, tmp_path / "run")) == []


def test_the_hook_changes_what_is_learned_and_sees_the_averaged_model(run, tmp_path):
    seen = []

    def nothing_there(targets, images, teacher, done, generator):
        seen.append((teacher.training, images[0].dtype, round(done, 2)))
        return [labels_of() for _ in targets]

    history = train_with(run, tmp_path / "run", hook=nothing_there)
    assert seen == [(False, torch.uint8, done) for done in (0.0, 0.5)]
    assert all(line["loss_bbox_regression"] == 0 for line in history)


@every
def test_a_checkpoint_gives_the_same_detector(name, tmp_path):
    detector, path = made(name), tmp_path / "d.safetensors"
    save_model(detector, path)
    again = load_detector(path)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    a, b = (d.detect([image])[0] for d in (detector, again))
    assert is_detector(path) and again.config == detector.config
    assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores)


def test_a_checkpoint_of_another_kind_is_refused(tiny_model, tmp_path):
    save_model(tiny_model, tmp_path / "deal.safetensors")
    assert not is_detector(tmp_path / "deal.safetensors")
    with pytest.raises(ValueError, match="deal.safetensors: expected one of fcos, .*, got a DEAL"):
        load_detector(tmp_path / "deal.safetensors")
    save_model(made(), tmp_path / "fcos.safetensors")
    with pytest.raises(ValueError, match="fcos.safetensors: metadata: ModelConfig has no field"):
        load_model(tmp_path / "fcos.safetensors")
    with pytest.raises(ValueError, match="fcos.safetensors: its detector is .* expected .*hidden_dim=64.* but for"):
        start_from(tmp_path / "fcos.safetensors", tiny(hidden_dim=64))


@every
def test_a_start_keeps_what_does_not_depend_on_the_categories(name, tmp_path):
    earlier, path = made(name), tmp_path / "scenes.safetensors"
    save_model(earlier, path)
    same = start_from(path, earlier.config)
    assert all(torch.equal(a, b) for a, b in zip(earlier.state_dict().values(), same.state_dict().values(), strict=True))
    fresh = start_from(path, replace(earlier.config, categories=("bolt", "nut")))
    differ = [n for n, value in fresh.state_dict().items() if value.shape != earlier.state_dict()[n].shape]
    assert differ and all(torch.equal(earlier.state_dict()[n], v) for n, v in fresh.state_dict().items() if n not in differ)
    assert fresh.config.categories == ("bolt", "nut")


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_torchvisions_detectors_start_from_each_others_backbone(name, tmp_path):
    earlier, path = made("fcos"), tmp_path / "fcos.safetensors"
    save_model(earlier, path)
    fresh = start_from(path, replace(earlier.config, detector=name))
    before, now = earlier.state_dict(), fresh.state_dict()
    backbone = [n for n in now if n.startswith("net.backbone.")]
    assert fresh.config.detector == name and backbone and all(torch.equal(before[n], now[n]) for n in backbone)
    assert any(n not in before for n in now), "its head is its own"


def test_a_detector_of_another_library_is_no_start(tmp_path):
    save_model(made("fcos"), tmp_path / "fcos.safetensors")
    with pytest.raises(ValueError, match="fcos.safetensors: fcos has no weight in common with rtdetr"):
        start_from(tmp_path / "fcos.safetensors", replace(made("fcos").config, detector="rtdetr"))


def test_published_weights_of_rtdetr_are_a_name_or_a_folder(tmp_path):
    source = made("rtdetr")
    source.net.class_embed, source.net.bbox_embed = source.net.model.decoder.class_embed, source.net.model.decoder.bbox_embed
    source.net.save_pretrained(tmp_path / "hub")
    detector = Detector(tiny("rtdetr", published=str(tmp_path / "hub"))).eval()
    assert torch.equal(detector.net.model.enc_score_head.weight, source.net.model.enc_score_head.weight)
    save_model(detector, tmp_path / "tuned.safetensors")
    (tmp_path / "hub").rename(tmp_path / "gone")  # a checkpoint needs them no more
    again = load_detector(tmp_path / "tuned.safetensors")
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    assert torch.equal(again.detect([image])[0].boxes, detector.detect([image])[0].boxes)


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        (DetectorConfig, {"detector": "yolo"}, "expected one of fcos, retinanet"),
        (DetectorConfig, {"backbone": "swin_t"}, "expected one of nano"),
        (DetectorConfig, {"finest_stride": 16}, "expected one of 4, 8"),
        (DetectorConfig, {"hidden_dim": 48}, "expected a multiple of 32"),
        (DetectorConfig, {"categories": ("a", "a")}, "expected different names"),
        (DetectorConfig, {"published": "x"}, "expected with detector rtdetr only"),
        (MethodConfig, {"method": "none"}, ""),
        (MethodConfig, {"teacher_start": 2.0}, ""),
        (MethodConfig, {"teacher_high": 0.5}, ""),
        (MethodConfig, {"point_size": -1.0}, ""),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(config, change, said):
    with pytest.raises(ValueError, match=f"{config.__name__}.*{next(iter(change))}.*{said}"):
        config(**change)


@pytest.mark.parametrize(
    "change", [{"backbone": "resnet18"}, {"hidden_dim": 64}, {"finest_stride": 8}, {"categories": ("a", "b")}], ids=str
)
@pytest.mark.parametrize("name", ["fcos", "rtdetr"])
def test_every_setting_of_the_network_reaches_it(name, change):
    plain, other = (sum(p.numel() for p in made(name, **c).parameters()) for c in ({}, change))
    if name == "fcos" or change != {"finest_stride": 8}:
        assert plain != other
    assert (other < plain) == (change == {"finest_stride": 8})


# Learning


def learn_by_heart(name, folder, *, steps, lr, size=96):
    """AP50 on eight procedural images after so many steps on all eight of them."""
    file = write_coco(folder, 8, size=size, object_size=12, num_objects=4, num_categories=1)
    data = CocoFolder(file, folder)
    detector = made(name, backbone="nano").train()
    optimizer = torch.optim.AdamW(parameter_groups(detector, TrainConfig(weight_decay=0.0)), lr=lr)
    samples = [data[i] for i in range(len(data))]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, step / steps, TrainConfig(lr=lr, warmup=10, steps=steps))
        terms = detector.loss([s.image for s in samples], [objects_of(s, {}) for s in samples])
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
    return evaluate_detector(detector, file, folder)["class_agnostic"]["ap50"]


def test_fcos_learns_eight_images_by_heart(tmp_path):
    assert learn_by_heart("fcos", tmp_path, steps=40, lr=2e-3) > 0.9


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("name", "steps", "lr"), [("retinanet", 120, 2e-3), ("faster_rcnn", 80, 2e-3), ("rtdetr", 160, 1e-3)])
def test_every_detector_learns_eight_images_by_heart(name, steps, lr, tmp_path):
    assert learn_by_heart(name, tmp_path, steps=steps, lr=lr) > 0.9
