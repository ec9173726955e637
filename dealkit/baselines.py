"""Detectors without prompts, to compare DEAL with: FCOS, RetinaNet, Faster R-CNN (torchvision), RT-DETRv2 (transformers).

Their networks, losses and post-processing are those of the libraries; ours are the data, the pre-processing, the training loop
and the evaluation, the same as DEAL's. `B` images, `N` boxes, `C` classes.

    detector = build_detector(DetectorConfig(detector="fcos"))
    detector.loss(images, objects)     # uint8 images, list[Objects] -> named float32 scalars
    detector.detect(images)            # -> list[Detections], xyxy pixels, with `classes`
    fit_detector(DetectorRun(), out)   # the loop, log, checkpoints and resume of `dealkit.train`
    load_detector(out / "model.safetensors")

Incomplete labels come as ordinary COCO files. What an `iscrowd` or `ignore` box covers is neither found nor missed, so **an
unlabelled image is one whose only annotation is a crowd box over all of it**; without annotations it is an image of background.
Fewer, wrong or shifted boxes are just those boxes, and a point is the centre of a box of any size. A method (`dealkit.methods`)
is a `Hook`, which changes the labels of a batch before the loss sees them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, clip_boxes_to_image

from dealkit.boxes import to_cxcywh, to_xyxy
from dealkit.config import DetectorConfig, DetectorRun, from_dict
from dealkit.data.coco import Sample
from dealkit.data.transforms import IMAGENET_MEAN, IMAGENET_STD, pad_to, to_input
from dealkit.model.encoder import STRIDES, Backbone
from dealkit.predict import MIN_SCORE, Detections
from dealkit.stream import open_sources
from dealkit.train import autocast, fill_model, read_checkpoint, training_loop


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What a detector should find in one image."""

    boxes: Tensor
    """(N, 4) float32 xyxy pixels of the image; N may be 0."""
    labels: Tensor
    """(N,) int64 index into the detector's categories; 0 where all are one class."""
    crowd: Tensor
    """(R, 4) float32 xyxy pixels of regions that are neither found nor missed."""


Hook = Callable[[list[Objects], list[Tensor], "Detector", float, torch.Generator], list[Objects]]
"""Labels of a batch, its (3, H, W) uint8 images, the averaged model as teacher, the share of the schedule that is used up, and
a random source -> the labels to learn from."""


def prepare(images: Sequence[Tensor]) -> list[Tensor]:
    """The networks' inputs, as DEAL's: (3, H, W) uint8 RGB of any sizes -> (3, H, W) float32, normalised, not resized.

    >>> prepare([torch.full((3, 5, 7), 124, dtype=torch.uint8)])[0].abs().max() < 0.5
    tensor(True)
    """
    return [to_input(image) for image in images]


def hide(image: Tensor, target: Objects) -> Tensor:
    """The normalised image (3, H, W) with the mean colour painted over its crowd regions, but not over objects.

    Choice: none of the losses knows regions that are neither found nor missed. TinyPerson's training images have theirs
    painted over as well; to call them background would teach that what is in them is none.

    >>> target = Objects(boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]), labels=torch.tensor([0]), crowd=torch.tensor([[0.0, 0.0, 2.0, 1.0]]))
    >>> hide(torch.ones(1, 1, 3), target)
    tensor([[[1., 0., 1.]]])
    """
    if not len(target.crowd):
        return image
    hidden = torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device)
    for boxes, value in ((target.crowd, True), (target.boxes, False)):
        for x1, y1, x2, y2 in torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1).clamp(min=0).long().tolist():
            hidden[y1:y2, x1:x2] = value
    return image.masked_fill(hidden, 0.0)


def as_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """Forward hook: every tensor of the output in float32, for what autocast made bfloat16.

    Both libraries take the type of their anchors and boxes from their features; in bfloat16 a coordinate above 256 is a
    multiple of 2 pixels.
    """
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return type(output)((k, as_float32(_module, (), v)) for k, v in output.items())
    return type(output)(as_float32(_module, (), v) for v in output)


class Pyramid(nn.Module):
    """DEAL's backbone and torchvision's feature pyramid: (B, 3, H, W) -> {"0": (B, D, H/4, W/4), ...} up to stride 32."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.backbone = Backbone(config.backbone, config.pretrained)
        self.first = STRIDES.index(config.finest_stride)
        self.out_channels = config.hidden_dim
        self.fpn = FeaturePyramidNetwork(self.backbone.channels[self.first :], config.hidden_dim)
        self.fpn.register_forward_hook(as_float32)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))[self.first :]
        return self.fpn({str(level): m for level, m in enumerate(maps)})


class SameInput(nn.Module):
    """In place of torchvision's transform, which would normalise again, and resize: it only pads, as DEAL's input is padded."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        batch, sizes = pad_to(images)
        return ImageList(batch, sizes), targets

    def postprocess(self, result: list[dict[str, Tensor]], _sizes: Any, _original_sizes: Any) -> list[dict[str, Tensor]]:
        return result


class CentredAnchors(AnchorGenerator):
    """Anchors in the middle of their cells, not at the corner as torchvision has them, up to a quarter of a pixel.

    Choice: FCOS learns an object from the points inside it. With whole-pixel coordinates, every object of 4 px or more then
    has one on a stride-4 map; at the cells' corners, nearly half of the objects of 4 x 4 px have none.
    """

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        anchors = super().forward(image_list, feature_maps)[0]
        height, width = image_list.tensors.shape[-2:]
        shifts = []
        for count, feature in zip(self.num_anchors_per_location(), feature_maps, strict=True):
            h, w = feature.shape[-2:]
            shift = torch.tensor([width // w, height // h, width // w, height // h], device=anchors.device) / 2 - 0.25
            shifts.append(shift.expand(h * w * count, 4))
        return [anchors + torch.cat(shifts)] * len(image_list.image_sizes)


def build_torchvision(config: DetectorConfig) -> nn.Module:
    """FCOS, RetinaNet or Faster R-CNN on the strides from `finest_stride` to 32.

    Choice: sizes for objects of 4 to 64 px. FCOS: points of stride s learn boxes whose farthest side is up to 8 s away, so up
    to 64 px at stride 4. The others: anchors of 1.25, 1.6 and 2 strides (5 to 64 px), three shapes each. Group norm in
    RetinaNet's head, as FCOS has it, since without weights to start from its plain head hardly learns.
    """
    classes, strides = max(len(config.categories), 1), STRIDES[STRIDES.index(config.finest_stride) :]
    pyramid = Pyramid(config)
    if config.detector == "fcos":
        anchors = CentredAnchors(tuple((s,) for s in strides), ((1.0,),) * len(strides))
    else:
        sizes = tuple(tuple(s * octave for octave in (1.25, 1.6, 2.0)) for s in strides)
        anchors = CentredAnchors(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    if config.detector == "faster_rcnn":
        net = FasterRCNN(
            pyramid,
            rpn_anchor_generator=anchors,
            rpn_pre_nms_top_n_test=2 * config.max_detections,
            rpn_post_nms_top_n_test=2 * config.max_detections,
            box_roi_pool=MultiScaleRoIAlign([str(level) for level in range(len(strides))], 7, 2),
            box_head=TwoMLPHead(49 * config.hidden_dim, 4 * config.hidden_dim),
            box_predictor=FastRCNNPredictor(4 * config.hidden_dim, classes + 1),  # its class 0 is the background
            box_score_thresh=MIN_SCORE,
            box_detections_per_img=config.max_detections,
        )
        heads = [net.rpn.head, net.roi_heads.box_predictor]
    else:
        options = {
            "anchor_generator": anchors,
            "score_thresh": MIN_SCORE,
            "topk_candidates": 2 * config.max_detections,
            "detections_per_img": config.max_detections,
        }
        if config.detector == "fcos":
            net = FCOS(pyramid, classes, **options)
        else:
            head = RetinaNetHead(config.hidden_dim, 9, classes, norm_layer=partial(nn.GroupNorm, 32))
            net = RetinaNet(pyramid, classes, head=head, **options)
        heads = [net.head]
    net.transform = SameInput()
    for head in heads:
        head.register_forward_hook(as_float32)
    return net


RESNETS = {
    "nano": {"embedding_size": 48, "hidden_sizes": [48, 96, 192, 320], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    "resnet18": {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    "resnet50": {
        "embedding_size": 64,
        "hidden_sizes": [256, 512, 1024, 2048],
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
    },
}
"""RT-DETR's own backbones: ResNets with a stem of three convolutions; `nano` has the widths of ours."""


def build_rtdetr(config: DetectorConfig) -> nn.Module:
    """RT-DETRv2 of Hugging Face transformers: three decoder layers as its R18, or with published weights as they are.

    Choice: its batch norms learn, which its library freezes: statistics of random weights are none. `finest_stride` 4 adds a
    level to the published three.

    Raises:
        ValueError: transformers is not installed; names the extra that brings it.
    """
    try:
        from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection
        from transformers.models.rt_detr.configuration_rt_detr_resnet import RTDetrResNetConfig
    except ImportError:
        raise ValueError("detector rtdetr: install transformers with `pip install -e .[dev]`") from None
    classes, width = max(len(config.categories), 1), config.hidden_dim
    if config.architecture:
        net = RTDetrV2ForObjectDetection(RTDetrV2Config.from_json_string(config.architecture))
    elif config.published:
        net = RTDetrV2ForObjectDetection.from_pretrained(config.published, num_labels=classes, ignore_mismatched_sizes=True)
    else:
        first = STRIDES.index(config.finest_stride)
        levels, resnet = len(STRIDES) - first, RESNETS[config.backbone]
        stages = [f"stage{level + 1}" for level in range(first, len(STRIDES))]
        net = RTDetrV2ForObjectDetection(
            RTDetrV2Config(
                backbone_config=RTDetrResNetConfig(**resnet, out_features=stages),
                freeze_backbone_batch_norms=False,
                encoder_in_channels=resnet["hidden_sizes"][first:],
                feat_strides=list(STRIDES[first:]),
                encode_proj_layers=[levels - 1],
                num_feature_levels=levels,
                decoder_n_levels=levels,
                decoder_in_channels=[width] * levels,
                encoder_hidden_dim=width,
                d_model=width,
                encoder_ffn_dim=4 * width,
                decoder_ffn_dim=4 * width,
                hidden_expansion=0.5,
                decoder_layers=3,
                initializer_bias_prior_prob=0.01,  # as of 80 classes; its own formula gives a single class 0.5
                num_queries=config.queries,
                num_labels=classes,
            )
        )
    net.class_embed = net.bbox_embed = None  # the decoder's own, which alone are used: a checkpoint holds each weight once
    for projection in net.model.decoder_input_proj:
        projection.register_forward_hook(as_float32)
    net.loss_function = rtdetr_loss
    return net


def rtdetr_loss(*args: Any, **kwargs: Any) -> Any:
    """The library's loss, in float32 whatever the forward pass was in."""
    from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

    def full(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    with torch.autocast(args[0].device.type, enabled=False):
        return RTDetrForObjectDetectionLoss(*map(full, args), **{k: full(v) for k, v in kwargs.items()})


class Detector(nn.Module):
    """A detector without prompts: `loss` in training, `detect` in use; images of any sizes, uint8.

    >>> detector = Detector(DetectorConfig(hidden_dim=32)).eval()
    >>> found = detector.detect([torch.zeros(3, 50, 70, dtype=torch.uint8)])[0]
    >>> found.boxes.shape[1], len(found) <= 1500
    (4, True)
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.net = build_rtdetr(config) if config.detector == "rtdetr" else build_torchvision(config)
        if config.published:
            config = replace(config, published="", architecture=self.net.config.to_json_string())
        self.config = config
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def loss(self, images: Sequence[Tensor], targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Named terms, float32 scalars, whose sum is the loss of B images (3, H, W) uint8 on the model's device.

        Names: those of the library with `loss_` before them; RT-DETR's layers are summed, those of denoising apart.
        """
        inputs = [hide(image, target) for image, target in zip(prepare(images), targets, strict=True)]
        if self.config.detector == "rtdetr":
            pixels, _ = self._pixels(inputs)
            size_hw = pixels.shape[-2:]
            size = torch.tensor([*size_hw[::-1], *size_hw[::-1]], device=pixels.device)
            labels = [{"class_labels": t.labels, "boxes": to_cxcywh(t.boxes) / size} for t in targets]
            terms: dict[str, Tensor] = {}
            for name, value in self.net(pixel_values=pixels, labels=labels).loss_dict.items():
                name = "loss_denoise" if "_dn_" in name else name.split("_aux_")[0]
                terms[name] = terms.get(name, 0.0) + value
            return terms
        offset = int(self.config.detector == "faster_rcnn")
        rows = [{"boxes": t.boxes, "labels": t.labels + offset} for t in targets]
        return {f"loss_{name.removeprefix('loss_')}": value for name, value in self.net(inputs, rows).items()}

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """What is found in B images (3, H, W) uint8, on the CPU: boxes clipped to the image, strongest first, `classes`."""
        device = self.mean.device
        inputs = prepare([image.to(device) for image in images])
        with autocast(device):
            rows = self._rtdetr_rows(inputs) if self.config.detector == "rtdetr" else self.net(inputs)
        offset, found = int(self.config.detector == "faster_rcnn"), []
        for row in rows:
            keep = (row["boxes"][:, 2:] > row["boxes"][:, :2]).all(1) & (row["scores"] >= MIN_SCORE)
            keep = keep.nonzero()[:, 0]
            keep = keep[row["scores"][keep].argsort(descending=True, stable=True)]
            boxes, scores, labels = (row[name][keep].cpu() for name in ("boxes", "scores", "labels"))
            found.append(Detections(boxes=boxes.float(), scores=scores.float(), classes=labels - offset))
        return found

    def _pixels(self, inputs: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Padded batch as RT-DETR has it, without normalisation, so that padding is the mean colour; and sizes_hw."""
        batch, sizes = pad_to(inputs)
        return batch * self.std + self.mean, sizes

    def _rtdetr_rows(self, inputs: list[Tensor]) -> list[dict[str, Tensor]]:
        pixels, sizes = self._pixels(inputs)
        height, width = pixels.shape[-2:]
        output = self.net(pixel_values=pixels)
        scores = output.logits.float().sigmoid()  # (B, Q, C)
        boxes = to_xyxy(output.pred_boxes.float()) * torch.tensor([width, height, width, height], device=pixels.device)
        rows = []
        for s, b, size_hw in zip(scores, boxes, sizes, strict=True):
            best, index = s.flatten().topk(len(s))  # a query may be of several classes, as in the library's own
            query, label = index // s.shape[1], index % s.shape[1]
            rows.append({"boxes": clip_boxes_to_image(b[query], size_hw), "scores": best, "labels": label})
        return rows


def build_detector(config: DetectorConfig) -> Detector:
    """A detector with random weights, or those its config names."""
    return Detector(config)


def load_detector(path: Path, *, expected: DetectorConfig | None = None) -> Detector:
    """The detector of a checkpoint, in float32 and evaluation mode.

    Raises:
        ValueError: not a checkpoint, one of a DEAL, weights that do not fit, or a config other than `expected`; names the file.
    """
    tensors, values = read_checkpoint(path)
    if "detector" not in values:
        raise ValueError(
            f"{path}: expected a detector of {', '.join(('fcos', 'retinanet', 'faster_rcnn', 'rtdetr'))}, got a DEAL"
        )
    config = from_dict(DetectorConfig, {**values, "pretrained": False}, f"{path}: metadata")
    if expected is not None and replace(config, architecture="") != replace(expected, pretrained=False, published=""):
        raise ValueError(f"{path}: its detector is {config}, expected {expected}")
    return fill_model(Detector(config), tensors, path)


def class_lookup(run: DetectorRun) -> dict[str, Tensor]:
    """Per source the class of each of its labels, (K,) int64, by the names of `run.detector.categories`; empty for one class.

    Raises:
        ValueError: a source has a category that is not among them; names both.
    """
    names, found = run.detector.categories, {}
    for source in open_sources(run.data.coco, run.data.weights)[0] if names else ():
        for _, name in source.categories:
            if name not in names:
                raise ValueError(f"{source.source}: category {name!r} is not one of {', '.join(names)}")
        classes = torch.tensor([names.index(name) for _, name in source.categories], dtype=torch.int64)
        if source.source in found and not torch.equal(found[source.source], classes):
            raise ValueError(f"{source.source}: two sources of this name have different categories; rename a folder")
        found[source.source] = classes
    return found


def objects_of(sample: Sample, lookup: dict[str, Tensor]) -> Objects:
    """Labels of a sample as a detector learns them; without a lookup all objects are of class 0."""
    real = ~sample.crowd
    labels = sample.labels[real]
    labels = lookup[sample.source][labels] if lookup else torch.zeros_like(labels)
    return Objects(boxes=sample.boxes[real], labels=labels, crowd=sample.boxes[sample.crowd])


def fit_detector(
    run: DetectorRun,
    out: Path,
    *,
    hook: Hook | None = None,
    resume: bool = False,
    init: Path | None = None,
    validate: Callable[[Detector], dict[str, float]] | None = None,
    stop_at: int | None = None,
) -> list[dict[str, float]]:
    """Train a detector by the loop, stream, schedule and checkpoints of DEAL; returns its log. See `train.training_loop`.

    Args:
        run: the run. out: its folder.
        hook: changes the labels of every batch, see `Hook`; None: they are learned as they are.
        init: checkpoint to start the weights from.
    """
    lookup = class_lookup(run)

    def make_model() -> Detector:
        return load_detector(init, expected=run.detector) if init else build_detector(run.detector)

    def loss_terms(
        model: Detector, samples: list[Sample], generator: torch.Generator, teacher: Detector, done: float
    ) -> dict[str, Tensor]:
        device = model.mean.device
        images = [sample.image.to(device) for sample in samples]
        targets = [Objects(**{k: v.to(device) for k, v in vars(objects_of(s, lookup)).items()}) for s in samples]
        if hook is not None:
            targets = hook(targets, images, teacher, done, generator)
        with autocast(device, run.train.bf16):
            return model.loss(images, targets)

    return training_loop(run, out, make_model, loss_terms, resume=resume, validate=validate, stop_at=stop_at)
