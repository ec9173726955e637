"""Networks of detectors without prompts, made of torchvision's and transformers' parts; `dealkit.baselines.detector` trains them.

`B` images, `D` width, `H, W` size of the padded batch.
"""

import json
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from dealkit.boxes import in_regions
from dealkit.config import MIN_SCORE, DetectorConfig
from dealkit.data.images import IMAGENET_MEAN, IMAGENET_STD
from dealkit.data.transforms import pad_to
from dealkit.model.encoder import PLAIN, STRIDES, build_backbone
from dealkit.model.lite import LITE


def as_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """Forward hook: every tensor of the output in float32, since boxes take their type from features; bfloat16 is too coarse."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return type(output)((k, as_float32(_module, (), v)) for k, v in output.items())
    return type(output)(as_float32(_module, (), v) for v in output)


class Pyramid(nn.Module):
    """A backbone of DEAL and torchvision's feature pyramid: (B, 3, H, W) -> {"0": (B, D, H/4, W/4), ...} up to stride 32."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.backbone = build_backbone(config)
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

    Choice: FCOS learns an object from the points inside it; at the cells' corners, nearly half of 4 x 4 px objects have none.
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


class IgnoringFCOS(FCOS):
    """FCOS whose targets may have `crowd`, (R, 4) xyxy: points in these regions, and on no object, have no part in the loss."""

    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor], num_anchors: list[int]
    ) -> dict[str, Tensor]:
        left_out = []
        for target, boxes in zip(targets, anchors, strict=True):
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            left_out.append(in_regions(centres, target["crowd"]) & ~in_regions(centres, target["boxes"]))
        logits = head_outputs["cls_logits"].masked_fill(torch.stack(left_out)[..., None], -20.0)
        return super().compute_loss(targets, {**head_outputs, "cls_logits": logits}, anchors, num_anchors)


def build_torchvision(config: DetectorConfig) -> nn.Module:
    """FCOS, RetinaNet or Faster R-CNN on the strides from `finest_stride` to 32.

    Choice: sizes for objects of 4 to 64 px. FCOS: points of stride s learn boxes whose farthest side is up to 8 s away, so up
    to 64 px at stride 4; its first boxes reach one stride to each side, since the library's start from 0 under a ReLU, where
    some trainings stay: no gradient, boxes without area. The others: anchors of 1.25, 1.6 and 2 strides (5 to 64 px), three
    shapes each. Group norm in RetinaNet's head, as FCOS has it, since without weights to start from its plain head hardly
    learns. Faster R-CNN trains on 1,000 proposals of an image, not 2,000: suppression among them took most of a step.
    """
    classes, strides = max(len(config.categories), 1), STRIDES[STRIDES.index(config.finest_stride) :]
    pyramid = Pyramid(config)
    if config.detector == "fcos":
        anchors = CentredAnchors(tuple((s,) for s in strides), ((1.0,),) * len(strides))
    else:
        sizes = tuple(tuple(s * octave for octave in (1.25, 1.6, 2.0)) for s in strides)
        anchors = CentredAnchors(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    most = config.max_detections
    options = {"score_thresh": MIN_SCORE, "topk_candidates": 2 * most, "detections_per_img": most, "anchor_generator": anchors}
    if config.detector == "fcos":
        net = IgnoringFCOS(pyramid, classes, **options)
        nn.init.ones_(net.head.regression_head.bbox_reg.bias)
    elif config.detector == "retinanet":
        head = RetinaNetHead(config.hidden_dim, 9, classes, norm_layer=partial(nn.GroupNorm, 32))
        net = RetinaNet(pyramid, classes, head=head, **options)
    else:
        net = FasterRCNN(
            pyramid,
            rpn_anchor_generator=anchors,
            rpn_pre_nms_top_n_train=1000,
            rpn_post_nms_top_n_train=1000,
            rpn_pre_nms_top_n_test=2 * most,
            rpn_post_nms_top_n_test=2 * most,
            box_roi_pool=MultiScaleRoIAlign([str(level) for level in range(len(strides))], 7, 2),
            box_head=TwoMLPHead(49 * config.hidden_dim, 4 * config.hidden_dim),
            box_predictor=FastRCNNPredictor(4 * config.hidden_dim, classes + 1),  # its class 0 is the background
            box_score_thresh=MIN_SCORE,
            box_detections_per_img=most,
        )
    heads = [net.rpn.head, net.roi_heads.box_predictor] if config.detector == "faster_rcnn" else [net.head]
    net.transform = SameInput()
    for head in heads:
        head.register_forward_hook(as_float32)
    return net


_BASIC = {"depths": [2, 2, 2, 2], "layer_type": "basic"}
_BOTTLENECK = {"depths": [3, 4, 6, 3], "layer_type": "bottleneck"}
RESNETS = {
    **{name: {"embedding_size": widths[0], "hidden_sizes": widths, **_BASIC} for name, widths in PLAIN.items()},
    "resnet18": {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], **_BASIC},
    "resnet50": {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], **_BOTTLENECK},
}
"""RT-DETR's own backbones: ResNets with a stem of three convolutions; `nano` and `pico` have the widths of ours."""


class FeatureMaps(nn.Module):
    """A backbone of ours in place of one of the library: the maps of the levels from `first` on, as its output has them."""

    def __init__(self, config: DetectorConfig, first: int):
        super().__init__()
        self.backbone, self.first = build_backbone(config), first
        self.channels = self.backbone.channels[first:]

    def forward(self, images: Tensor) -> Any:
        from transformers.modeling_outputs import BackboneOutput

        # the library's pixels are not normalised
        std, mean = (images.new_tensor(rgb)[:, None, None] for rgb in (IMAGENET_STD, IMAGENET_MEAN))
        maps = self.backbone(((images - mean) / std).contiguous(memory_format=torch.channels_last))
        return BackboneOutput(feature_maps=tuple(maps[self.first :]))


def take_backbone(net: nn.Module, config: DetectorConfig, first: int) -> None:
    """Give an RT-DETR the backbone of a config, and first convolutions that read its channels."""
    maps = FeatureMaps(config, first)
    net.model.backbone.model = maps
    for part, channels in zip(net.model.encoder_input_proj, maps.channels, strict=True):
        part[0] = nn.Conv2d(channels, part[0].out_channels, 1, bias=False)


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
        net = RTDetrV2ForObjectDetection(RTDetrV2Config.from_dict(json.loads(config.architecture)))
    elif config.published:
        net = RTDetrV2ForObjectDetection.from_pretrained(config.published, num_labels=classes, ignore_mismatched_sizes=True)
    else:
        first = STRIDES.index(config.finest_stride)
        levels, resnet = len(STRIDES) - first, RESNETS["pico" if config.backbone in LITE else config.backbone]
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
        if config.backbone in LITE:
            take_backbone(net, config, first)
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
