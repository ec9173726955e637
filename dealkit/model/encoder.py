"""Backbone and hybrid feature enhancement: an image becomes four maps, stride 4 to 32.

`B` images, `D` width of coarse tokens, `C` width of the stride-4 map, `S` tokens, `h, w` size of a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dealkit.config import DetectorConfig, ModelConfig
from dealkit.model.lite import LITE, Lite, wheel_weights

STRIDES = (4, 8, 16, 32)
PLAIN = {"nano": [48, 96, 192, 320], "pico": [6, 12, 24, 40]}
"""Channels of our own backbones' maps: 5.0 M and 0.08 M parameters."""


def conv_norm(c_in: int, c_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
    )


def plain_stages(widths: list[int]) -> list[nn.Module]:
    """Stages of so many channels: torchvision's basic blocks, narrow where maps are large."""
    from torchvision.models.resnet import BasicBlock  # here, as below: half of the start of a click, which may not need it

    stem, first = 2 * widths[0] // 3, widths[0]
    blocks = BasicBlock(first, first), BasicBlock(first, first)
    stages: list[nn.Module] = [nn.Sequential(conv_norm(3, stem, stride=2), conv_norm(stem, first, stride=2), *blocks)]
    for c_in, c_out in zip(widths, widths[1:], strict=False):
        shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))
        stages.append(nn.Sequential(BasicBlock(c_in, c_out, 2, shortcut), BasicBlock(c_out, c_out)))
    return stages


class LiteBackbone(nn.Module):
    """EfficientNet-Lite, which wants (x - 127) / 128, on the input of the others: `IMAGENET_MEAN` and `IMAGENET_STD`."""

    def __init__(self, name: str, *, pretrained: bool, frozen: bool):
        super().__init__()
        self.net = Lite(name, frozen=frozen)
        self.channels = self.net.channels
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        self.register_buffer("scale", 255 * std / 128, persistent=False)
        self.register_buffer("shift", (255 * mean - 127) / 128, persistent=False)
        if pretrained:
            weights = wheel_weights(name)
            self.net.load_state_dict({k: v for k, v in weights.items() if not k.startswith(("head.", "classifier."))})

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.net(torch.addcmul(self.shift, images, self.scale))


class Backbone(nn.Module):
    """Image (B, 3, H, W), normalised, H and W multiples of 32 -> four maps (B, c, H/s, W/s) for s in `STRIDES`."""

    def __init__(self, name: str, pretrained: bool = False):
        super().__init__()
        self.channels_last_out = name == "swin_t"
        if name in PLAIN:
            stages, self.channels = plain_stages(PLAIN[name]), PLAIN[name]
        else:
            import torchvision

            net = getattr(torchvision.models, name)(weights="DEFAULT" if pretrained else None)
            if name.startswith("resnet"):
                stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
                stages = [nn.Sequential(stem, net.layer1), net.layer2, net.layer3, net.layer4]
                self.channels = [64, 128, 256, 512] if name == "resnet18" else [256, 512, 1024, 2048]
            else:  # swin_t, convnext_tiny: stem and stage, then pairs of downsampling and stage
                stages = [net.features[i : i + 2] for i in (0, 2, 4, 6)]
                self.channels = [96, 192, 384, 768]
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x.permute(0, 3, 1, 2) if self.channels_last_out else x)
        return maps


def rotate(x: Tensor, pos: Tensor, wavelengths: Tensor) -> Tensor:
    """Rotary position code in pixels: a dot product of two rotated vectors depends only on the difference of their positions.

    Choice: rotary, not added sinusoids, since a box must not depend on where in a large image its object lies (DESIGN:
    pixels, not fractions). Source: RoPE, arXiv 2104.09864, here on x and y.

    Args:
        x: (B, heads, S, d), d a multiple of 4.
        pos: (B, S, 2) xy pixels.
        wavelengths: (d / 4,) pixels per turn.
    """
    angle = 2 * torch.pi * pos.float()[:, None, :, :, None] / wavelengths  # (B, 1, S, 2, d/4)
    angle = angle.flatten(3)  # (B, 1, S, d/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class RotaryAttention(nn.Module):
    """Multi-head attention whose position code is rotary, in pixels."""

    def __init__(self, dim: int, num_heads: int, *, wavelengths: tuple[float, float]):
        super().__init__()
        self.num_heads = num_heads
        self.to_q, self.to_kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        count = dim // num_heads // 4
        self.register_buffer("wavelengths", torch.logspace(*torch.tensor(wavelengths).log2().tolist(), count, base=2.0))

    def forward(self, x: Tensor, pos: Tensor, memory: Tensor, memory_pos: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, Q, D) at pos (B, Q, 2) attends to memory (B, S, D) at memory_pos (B, S, 2), where mask (B, Q or 1, S) is
        True."""

        def heads(t: Tensor) -> Tensor:
            return t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, S, d)

        k, v = self.to_kv(memory).chunk(2, dim=-1)
        q = rotate(heads(self.to_q(x)), pos, self.wavelengths)
        k = rotate(heads(k), memory_pos, self.wavelengths)
        mask = None if mask is None else mask[:, None]
        y = F.scaled_dot_product_attention(q, k, heads(v).to(q.dtype), attn_mask=mask)
        if mask is not None and torch.compiler.is_compiling():  # who may attend to nothing gets nothing, as here, in any runtime
            y = torch.where(mask.any(-1, keepdim=True), y, 0.0)
        return self.out(y.transpose(1, 2).flatten(2))


class ContextLayer(nn.Module):
    """Self-attention and feed-forward on coarse tokens, pre-norm."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = RotaryAttention(dim, num_heads, wavelengths=(64.0, 512.0))
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, pos, y, pos, mask)
        return x + self.ffn(self.norm2(x))


def cell_centres(h: int, w: int, stride: int, device: torch.device) -> Tensor:
    """(h, w, 2) xy pixels of the centres of a map's cells.

    >>> cell_centres(1, 2, 4, torch.device("cpu"))
    tensor([[[2., 2.],
             [6., 2.]]])
    """
    y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) * stride
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def build_backbone(config: ModelConfig | DetectorConfig) -> LiteBackbone | Backbone:
    """The backbone of a config: images -> four maps of `channels`."""
    if config.backbone in LITE:
        return LiteBackbone(config.backbone, pretrained=config.pretrained, frozen=config.frozen)
    return Backbone(config.backbone, config.pretrained)


class HybridFeatureEnhancement(nn.Module):
    """HFE: global context on the coarsest map, then fusion down to stride 4 and up again.

    Output: maps of strides 4, 8, 16, 32; the first (B, C, H/4, W/4), the others (B, D, ., .). No map coarser than stride 4
    decides where a tiny object is.

    Source: paper, HFE ("global context fused with fine spatial detail"). Choice: attention on stride 32 only, without any
    position of the whole image, so that any size works and a tile costs little; a path-aggregation fusion for detail.
    """

    def __init__(self, channels: list[int], config: ModelConfig):
        super().__init__()
        dim, fine = config.hidden_dim, config.fine_dim
        self.lateral = nn.ModuleList(nn.Conv2d(c, d, 1) for c, d in zip(channels, [fine, dim, dim, dim], strict=True))
        self.to_fine = nn.Conv2d(dim, fine, 1)
        self.whole = config.enhancement
        if not self.whole:
            return
        self.context = nn.ModuleList(ContextLayer(dim, config.num_heads) for _ in range(config.context_layers))
        self.top_down = nn.ModuleList([conv_norm(fine, fine), conv_norm(dim, dim), conv_norm(dim, dim)])
        self.down = nn.ModuleList([conv_norm(fine, dim, stride=2), conv_norm(dim, dim, stride=2), conv_norm(dim, dim, stride=2)])

    def forward(self, maps: list[Tensor], keep: Tensor | None) -> list[Tensor]:
        """`keep` (B, h, w) of the stride-32 map is False on padding; None if there is none."""
        p4, p8, p16, p32 = (lateral(m) for lateral, m in zip(self.lateral, maps, strict=True))
        if not self.whole:
            p16 = p16 + upsample(p32)
            p8 = p8 + upsample(p16)
            return [p4 + upsample(self.to_fine(p8)), p8, p16, p32]
        b, _, h, w = p32.shape
        tokens = p32.permute(0, 2, 3, 1).flatten(1, 2)
        pos = cell_centres(h, w, 32, p32.device).flatten(0, 1).expand(b, -1, -1)
        mask = None if keep is None else keep.flatten(1)[:, None]
        for layer in self.context:
            tokens = layer(tokens, pos, mask)
        p32 = tokens.unflatten(1, (h, w)).permute(0, 3, 1, 2)

        p16 = self.top_down[2](p16 + upsample(p32))
        p8 = self.top_down[1](p8 + upsample(p16))
        p4 = self.top_down[0](p4 + upsample(self.to_fine(p8)))
        p8 = p8 + self.down[0](p4)
        p16 = p16 + self.down[1](p8)
        return [p4, p8, p16, p32 + self.down[2](p16)]


def upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
