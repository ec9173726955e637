"""DEAL: `encode` an image once, `detect` for every prompt.

`B` images, `N` prompt sets, `P` points, `K` queries, `D` width. All boxes are cxcywh pixels of the network input.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dealkit.config import ModelConfig
from dealkit.model.decoder import Decoder
from dealkit.model.encoder import STRIDES, HybridFeatureEnhancement, build_backbone, cell_centres
from dealkit.model.queries import (
    EXTENT,
    Activation,
    DensityActivation,
    PointEmbedding,
    allocate_queries,
    contrast_keys,
    local_peaks,
    of_image,
)
from dealkit.prompts import PointPrompts


@dataclass(frozen=True, kw_only=True)
class Features:
    """What `DEAL.encode` computes once per image; every click reads it."""

    maps: list[Tensor]
    """Four maps (B, ., H/s, W/s) for s in `STRIDES`."""
    values: Tensor
    """(B, S, D): their cells, finest map first, row by row, as the decoder samples them."""
    edges: Tensor
    """(B, S', E): cells of strides 4, 8 and 16, as the decoder reads the inside of a box; E may be 0."""
    keys: list[Tensor]
    """(B, ., H/s, W/s) for s = 4, 8 and 16: the backbone's own maps as `contrast_keys`; empty without `similarity`."""
    keep: list[Tensor]
    """(B, H/s, W/s) bool for s = 4, 16 and 32: False where a cell's centre lies on padding."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Raw detections of N prompt sets, before any threshold."""

    pred_logits: Tensor
    """(N, K) float32; the sigmoid estimates the IoU with an object of the prompted kind. -20 for padding."""
    pred_boxes: Tensor
    """(N, K, 4) float32 cxcywh pixels."""
    valid: Tensor
    """(N, K) bool: queries that are not padding. The first are the clicks' own: P for every entry of `click_sizes`."""
    activation: Activation
    """Peaks, density and dense boxes on the stride-4 map."""
    large: Activation | None = None
    """The same on the stride-16 map, for large objects; None without cross-scale queries."""
    aux_outputs: list[tuple[Tensor, Tensor]]
    """(boxes, logits) of the decoder's earlier layers."""
    reference_points: Tensor
    """(N, K, 4) boxes where the queries started."""
    count: Tensor
    """(N,) objects that the density sums to."""
    starts: int = 1
    """Queries that every click starts, one for each entry of `click_sizes`: click p has the queries p, P + p, 2 P + p ..."""
    wider: Tensor | None = None
    """(N, 2): how much wider and higher boxes were drawn than what is found there, see `read_wider`; 0 where none was drawn."""
    denoised: list[Tensor]
    """(N, R, 4) cxcywh pixels per layer: what the decoder made of the noisy boxes it was given in training."""


FOLLOW, LARGEST = 0.35, 1.3
"""All boxes of a prompt grow by this power of `read_wider`, of which no factor is larger. Choice: of the powers that
`studies/margins` tried on validation images, the largest that costs less than half a point of AP75 where boxes are drawn as they
are annotated; larger ones gain little more where they are wider or tighter."""


class DEAL(nn.Module):
    """Point-prompted small object detector.

    >>> model = DEAL(ModelConfig(hidden_dim=32, fine_dim=16)).eval()
    >>> prompts = PointPrompts(points=torch.tensor([[[20.0, 30.0]]]), labels=torch.tensor([[1]]), image_index=torch.tensor([0]))
    >>> features = model.encode(torch.zeros(1, 3, 64, 96))
    >>> model.detect(features, prompts).pred_boxes.shape  # 24 queries, the fewest, and the click's own three
    torch.Size([1, 27, 4])

    Source: arXiv 2604.02773, DEAL.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        dim, fine = config.hidden_dim, config.fine_dim
        self.backbone = build_backbone(config)
        self.enhance = HybridFeatureEnhancement(self.backbone.channels, config)
        self.to_values = nn.ModuleList(nn.Linear(c, dim) for c in (fine, dim, dim, dim))
        self.to_edges = nn.ModuleList(nn.Linear(c, config.edge_dim) for c in (fine, dim, dim) if config.edge_dim)
        self.embed_points = PointEmbedding(config)
        self.embedding_dim = dim + sum(self.backbone.channels[:3]) * config.similarity + EXTENT
        self.activate = DensityActivation(config)
        self.activate_large = DensityActivation(config, STRIDES[2]) if config.cross_scale else None
        self.decoder = Decoder(config)
        self.follow = FOLLOW

    def encode(self, images: Tensor, sizes_hw: list[tuple[int, int]] | Tensor | None = None) -> Features:
        """Features of normalised images (B, 3, H, W), H and W multiples of 32; `sizes_hw` are sizes before padding, (B, 2)."""
        b, _, height, width = images.shape
        if height % 32 or width % 32:
            raise ValueError(f"images: expected height and width to be multiples of 32, got {height} x {width}; use pad_to")
        extent, padded = sizes_hw, True
        if not isinstance(sizes_hw, Tensor):
            padded = any(tuple(size) != (height, width) for size in sizes_hw or [])
            extent = torch.tensor(sizes_hw or [(height, width)] * b, device=images.device)
        keep = []
        for stride in (STRIDES[0], STRIDES[2], STRIDES[3]):
            centres = cell_centres(height // stride, width // stride, stride, images.device)
            inside = centres < extent.flip(1)[:, None, None]
            # a strip narrower than half a cell would leave an image without any coarse token
            keep.append(inside.all(-1) | (centres == stride / 2).all(-1))
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        keys = [contrast_keys(m.detach(), keep[0] if padded else None) for m in maps[:3] if self.config.similarity]
        maps = self.enhance(maps, keep[-1] if padded else None)
        cells = [m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps]
        values = torch.cat([to_value(c) for to_value, c in zip(self.to_values, cells, strict=True)], dim=1)
        edges = [to_edge(c) for to_edge, c in zip(self.to_edges, cells, strict=False)]
        edges = torch.cat(edges, dim=1) if edges else images.new_zeros(b, 0, 0)
        if self.training:  # the gradients of many samples of one cell add up in float32
            values, edges = values.float(), edges.float()
        return Features(maps=maps, values=values, edges=edges, keys=keys, keep=keep)

    def embed(self, features: Features, prompts: PointPrompts) -> Tensor:
        """Prompt embeddings (N, 2, E) float32, E of `embedding_dim`: of what is meant and of what is not (or zero)."""
        return self.embed_points(features.maps, features.keys, features.keep[-1].flatten(1), prompts)

    def detect(
        self,
        features: Features,
        prompts: PointPrompts,
        at_least: Tensor | None = None,
        noisy: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Output:
        """Detections for every prompt set.

        Args:
            features: of `encode`. prompts: N sets; `image_index` says which image each belongs to.
            at_least: (N,) known counts, in training, so that no object lacks a query while the density is still wrong.
            noisy: (N, R, 4) cxcywh pixels, in training: boxes for the decoder to correct, beside its own queries and unseen by
                them; rows of zeros are padding.
            embedding: (N, 2, E) of `embed` on other images, instead of that of `prompts`' own clicks.
        """
        index = prompts.image_index
        if not torch.compiler.is_compiling() and len(index) and int(index.max()) >= len(features.maps[0]):
            raise ValueError(f"prompts.image_index: {int(index.max())} is not one of the {len(features.maps[0])} encoded images")
        if embedding is None:
            embedding = self.embed(features, prompts)
        embedding, vectors, extent = self.embed_points.split(embedding)
        wider = extent[:, 3:]
        has_negative = embedding[:, 1].any(1)
        prompt = embedding, has_negative
        keys = [key if len(key) == 1 else of_image(key, index) for key in features.keys]
        lit = self.activate(of_image(features.maps[0], index), *prompt, of_image(features.keep[0], index), keys, vectors)
        large = None
        if self.activate_large is not None:
            coarse, keep = of_image(features.maps[2], index), of_image(features.keep[1], index)
            large = self.activate_large(coarse, *prompt, keep, keys, vectors)
        levels = [lit] if large is None else [lit, large]
        count = torch.stack([level.density.flatten(1).sum(1) for level in levels]).sum(0)

        with torch.no_grad():
            strength = torch.cat([local_peaks(level.peak_logits) for level in levels], dim=1)
            cells, valid = allocate_queries(strength, count, self.config, at_least)
            h, w = lit.peak_logits.shape[-2:]
            at = (prompts.points / STRIDES[0]).long()
            own = at[..., 1].clamp(0, h - 1) * w + at[..., 0].clamp(0, w - 1)  # (N, P)
            is_click, sizes = prompts.labels == 1, self.config.click_sizes
            cells = torch.cat([own.repeat(1, len(sizes)), cells], dim=1)
            valid = torch.cat([is_click.repeat(1, len(sizes)), valid], dim=1)
            clicked = torch.cat([is_click, torch.zeros_like(valid[:, is_click.shape[1] :])], dim=1)
            if noisy is None:
                noisy = prompts.points.new_zeros(index.shape[0], 0, 4)
            at = (noisy[..., :2] / STRIDES[0]).long()
            starts = torch.cat([at[..., 1].clamp(0, h - 1) * w + at[..., 0].clamp(0, w - 1), cells], dim=1)
            group = torch.cat([2 * (noisy[..., 2] > 0), valid.long()], dim=1)  # queries see their own group
            clicked = torch.cat([torch.zeros_like(noisy[..., 0], dtype=torch.bool), clicked], dim=1)

        def at_cells(dense: list[Tensor]) -> Tensor:  # (N, h, w, c) of every level -> (N, K, c)
            cells = torch.cat([d.flatten(1, 2) for d in dense], dim=1)
            return cells.gather(1, starts[..., None].expand(-1, -1, cells.shape[-1]))

        content = at_cells([level.hidden.permute(0, 2, 3, 1) for level in levels]).float()
        skip = noisy.shape[1]
        first = at_cells([level.boxes for level in levels])[:, skip:].detach()
        factor = first.new_tensor(sizes)[:, None].expand(-1, own.shape[1]).flatten()
        factor = F.pad(factor, (0, first.shape[1] - factor.shape[0]), value=1.0)
        first = torch.cat([first[..., :2], first[..., 2:] * factor[:, None]], dim=-1)
        # a drawn box is where its own queries start, and outside training what they answer; there the first of them starts from
        # what is found at its centre, and says how much larger the box was drawn
        drawn = torch.cat([prompts.points, prompts.sizes], dim=-1)
        at_drawn = (drawn[..., 2:] > 0).all(-1) & is_click
        drawn, is_drawn = drawn.repeat(1, len(sizes), 1), at_drawn.repeat(1, len(sizes))
        drawn, is_drawn, at_drawn = (
            F.pad(t, (*[0, 0] * (t.ndim - 2), 0, first.shape[1] - t.shape[1])) for t in (drawn, is_drawn, at_drawn)
        )
        first = torch.where((is_drawn if self.training else is_drawn & ~at_drawn)[..., None], drawn, first)
        reference = torch.cat([noisy.clamp(min=0.5), first], dim=1)
        lit_up = lit.peak_logits.detach().sigmoid() * (self.config.fixed_queries == 0)

        def decode(rows: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
            part = (content[rows, :k], reference[rows, :k], clicked[rows, :k], group[rows, :k], embedding[rows, 0], extent[rows])
            # in float32: many small operations, where casts cost more than bfloat16 saves, and boxes as exact as they can be
            with torch.autocast(content.device.type, enabled=False):
                return self.decoder(*part, features.values, features.edges, lit_up[rows], index[rows])

        every = decode_in_groups(decode, group > 0)
        layers = [(boxes[:, skip:], logits[:, skip:]) for boxes, logits in every]
        boxes, logits = layers[-1]
        if not self.training:
            wider = torch.where(wider.any(1, keepdim=True), wider, read_wider(boxes, drawn, at_drawn))
            boxes = torch.cat([boxes[..., :2], boxes[..., 2:] * (self.follow * wider).exp()[:, None]], dim=-1)
            boxes = torch.where(is_drawn[..., None], drawn, boxes)
        return Output(
            pred_logits=logits,
            pred_boxes=boxes,
            valid=valid,
            activation=lit,
            large=large,
            aux_outputs=layers[:-1],
            reference_points=reference[:, skip:],
            count=count,
            starts=len(self.config.click_sizes),
            wider=wider,
            denoised=[boxes[:, :skip] for boxes, _ in every],
        )

    def forward(self, images: Tensor, prompts: PointPrompts, sizes_hw: list[tuple[int, int]] | None = None) -> Output:
        """`encode`, then `detect`."""
        return self.detect(self.encode(images, sizes_hw), prompts)


def read_wider(boxes: Tensor, drawn: Tensor, at_drawn: Tensor) -> Tensor:
    """(N, 2): the logs of how much wider and higher boxes were drawn than what is found there; the mean of several, 0 of none.

    The network is told of the drawn boxes, and follows them by itself, but not all the way: this is what remains.

    Args:
        boxes: (N, K, 4) cxcywh found. drawn: (N, K, 4) the drawn ones. at_drawn: (N, K) bool: which of the found ones to read.

    >>> found, drawn = torch.tensor([[[9.0, 9, 8, 6], [50, 50, 10, 10]]]), torch.tensor([[[9.0, 9, 10, 6], [0, 0, 0, 0]]])
    >>> read_wider(found, drawn, torch.tensor([[True, False]])).exp()
    tensor([[1.2500, 1.0000]])
    """
    wider = (drawn[..., 2:].clamp(min=0.5) / boxes[..., 2:]).log().clamp(-math.log(LARGEST), math.log(LARGEST))
    return (wider * at_drawn[..., None]).sum(1) / at_drawn.sum(1, keepdim=True).clamp(min=1)


def decode_in_groups(decode: Callable[[Tensor, int], list[tuple[Tensor, Tensor]]], valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Decode few-query and many-query sets apart, so that one dense set does not pad all the others; the result is the same.

    Args:
        decode: (rows, k) -> per layer boxes (n, k, 4) and logits (n, k) of these prompt sets' first k queries.
        valid: (N, K) bool.

    Returns:
        per layer boxes (N, K, 4), zero where a group has no query, and logits (N, K), -20 there.
    """
    n, width = valid.shape
    if torch.compiler.is_compiling():  # a graph has no such choice
        return decode(torch.arange(n, device=valid.device), width)
    needed = (valid * torch.arange(1, width + 1, device=valid.device)).amax(1) if n else valid.sum(1)
    order = needed.argsort()
    lengths = needed[order].tolist()
    cost = [i * lengths[i - 1] + (n - i) * width for i in range(1, n)]
    split = 1 + cost.index(min(cost)) if cost and min(cost) < 0.8 * n * width else 0
    if not split:
        return decode(torch.arange(n, device=valid.device), width)
    groups = [(order[:split], int(lengths[split - 1])), (order[split:], width)]
    back = order.argsort()
    layers = []
    for parts in zip(*(decode(rows, k) for rows, k in groups), strict=True):
        boxes = torch.cat([F.pad(b, (0, 0, 0, width - b.shape[1])) for b, _ in parts])[back]
        logits = torch.cat([F.pad(s, (0, width - s.shape[1]), value=-20.0) for _, s in parts])[back]
        layers.append((boxes, logits))
    return layers


def build_model(config: ModelConfig) -> DEAL:
    """A DEAL with fresh weights, in the memory format that convolutions run fastest in."""
    return DEAL(config).to(memory_format=torch.channels_last)
