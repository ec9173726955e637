"""A model made fast for inference: the same sums in fewer passes over the memory."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dealkit.device import bf16_is_faster
from dealkit.model.deal import DEAL
from dealkit.model.lite import SameConv

ACTIVATIONS = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0]), nn.Identity: ("none", [])}
"""Activation -> its name in oneDNN, and its numbers."""


class FusedConv(nn.Module):
    """A convolution and its activation in one pass of oneDNN, in float32 on a CPU.

    Choice: the large 1 x 1 convolutions with ReLU6 take half of the time of the two one after the other.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module):
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # a graph for other runtimes, which fuse by themselves
            return self.act(self.conv(x))
        c = self.conv
        how = c.padding, c.stride, c.dilation, c.groups, *ACTIVATIONS[type(self.act)], ""
        return torch.ops.mkldnn._convolution_pointwise(x, c.weight, c.bias, *how)


def evenly_padded(conv: SameConv) -> nn.Conv2d:
    """The same convolution with a kernel one larger, its first row and column zero: the padding is even, and costs no copy."""
    out, _, *size = conv.weight.shape
    even = nn.Conv2d(conv.in_channels, out, [side + 1 for side in size], 2, size[0] // 2, groups=conv.groups)
    even.weight, even.bias = nn.Parameter(F.pad(conv.weight, (1, 0, 1, 0))), conv.bias
    return even.requires_grad_(False)


def for_inference(model: DEAL, *, float32: bool = False) -> DEAL:
    """A copy that computes the same faster, not for training or saving: batch norms folded, convolutions fused with what follows
    them, bfloat16 where `autocast` casts, unless `float32` is asked for."""
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    weight = next(fast.parameters())
    bf16 = bf16_is_faster(weight.device.type) and not float32
    for block in [block for block in fast.modules() if not isinstance(block, FusedConv)]:
        children = dict(block.named_children())
        if isinstance(block, nn.Sequential):
            pairs = list(zip(children, list(children)[1:], strict=False))
        else:  # a residual block names its convolutions and norms in pairs
            pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)]
        for conv, norm in pairs:
            if isinstance(children.get(conv), nn.Conv2d) and isinstance(children.get(norm), nn.BatchNorm2d):
                setattr(block, conv, fuse_conv_bn_eval(children[conv], children[norm]))
                setattr(block, norm, nn.Identity())
        children = dict(block.named_children())
        for place, (name, conv) in enumerate(children.items()):
            if isinstance(conv, SameConv) and conv.stride[0] == 2:
                setattr(block, name, conv := evenly_padded(conv))
            if isinstance(conv, nn.Conv2d) and weight.device.type == "cpu" and not bf16 and torch.backends.mkldnn.is_available():
                after = list(children)[place + 1 : place + 3] if isinstance(block, nn.Sequential) else []
                act = next((a for a in after if not isinstance(children[a], nn.Identity)), None)
                fused = act is not None and type(children[act]) in ACTIVATIONS
                setattr(block, name, FusedConv(conv, children[act] if fused else nn.Identity()))
                if fused:
                    setattr(block, act, nn.Identity())
    if bf16:
        for name, layer in fast.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and not name.startswith("decoder."):
                layer.to(torch.bfloat16)
    return fast.to(memory_format=torch.channels_last)
