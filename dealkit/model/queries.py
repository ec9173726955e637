"""Point embedding, point-guided density activation, density-guided query allocation.

`B` images, `N` prompt sets (one category in one image each), `P` points, `K` queries, `D` width, `C` width of the stride-4 map,
`G` generated kernels, `h, w` size of a map. Positions and sizes are pixels of the network input.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dealkit.config import ModelConfig
from dealkit.model.encoder import STRIDES, RotaryAttention, cell_centres, conv_norm
from dealkit.prompts import PointPrompts

LARGE = 64.0
"""Square root of the box area, pixels, from which an object belongs to the stride-16 map. Choice: four of its cells."""

NEIGHBOURHOOD = 96.0
"""Pixels in x and in y from a click to the farthest coarse tokens that describe it. Choice: with every token of the image the
same object means different things in a crop and in a large image, and its box moves by 0.75 px."""


def sample_map(feature: Tensor, points_xy: Tensor, stride: int) -> Tensor:
    """Bilinear values of a map at pixel positions; positions outside the map read its border.

    Args:
        feature: (N, C, h, w).
        points_xy: (N, Q, 2) xy pixels of the network input.
        stride: pixels per cell.

    Returns:
        (N, Q, C) float32.

    >>> sample_map(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[4.0, 2.0]]]), 4)  # half-way between two cells
    tensor([[[2.]]])
    """
    size = torch.tensor([feature.shape[-1], feature.shape[-2]], device=feature.device, dtype=torch.float32) * stride
    inside = points_xy.float().clamp(min=stride / 2).minimum(size - stride / 2)  # the outermost centres: what `border` does
    grid = (inside / size * 2 - 1)[:, :, None, :]
    values = F.grid_sample(feature.float(), grid, mode="bilinear", align_corners=False)
    return values[..., 0].transpose(1, 2)


def of_image(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x` (B, ...) for every prompt set's image, (N, ...); no copy for one image."""
    return x.expand(index.shape[0], *x.shape[1:]) if len(x) == 1 else x.index_select(0, index)


def contrast_keys(feature: Tensor, keep: Tensor | None) -> Tensor:
    """A backbone's map (B, C, h, w) with the mean of its image subtracted and unit length in every cell.

    Choice: without the mean, what all places share hides what they differ in. Source: the experiment of the design page, and
    CountingDINO, arXiv 2504.16570.
    """
    x = feature.float()
    if keep is None:
        mean = x.mean((2, 3), keepdim=True)
    else:
        inside = F.interpolate(keep[:, None].float(), size=x.shape[2:], mode="nearest")
        mean = (x * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp(min=1)
    return F.normalize(x - mean, dim=1).to(feature.dtype)


def similarity_maps(keys: list[Tensor], vectors: Tensor, stride: int) -> Tensor:
    """Cosine of a prompt's vectors with every place, a channel per stride of `keys`, on the map of one `stride`.

    Args:
        keys: (N, C, h, w) of `contrast_keys`, strides 4, 8 and 16, or of one image (1, C, h, w). vectors: (N, sum of C).

    Returns:
        (N, 3, h, w) of `stride`, -1 to 1; 0 where the vectors are zero.
    """
    size = keys[0].shape[2] * STRIDES[0] // stride, keys[0].shape[3] * STRIDES[0] // stride
    maps = []
    for key, vector, own in zip(keys, vectors.split([k.shape[1] for k in keys], dim=1), STRIDES, strict=False):
        unit = F.normalize(vector.float(), dim=1).to(key.dtype)
        if len(key) == 1:  # one product for all prompts of an image
            cosine = (unit @ key[0].flatten(1)).unflatten(1, key.shape[2:])[:, None]
        else:
            cosine = torch.einsum("nchw,nc->nhw", key, unit)[:, None]
        if own > stride:
            cosine = F.interpolate(cosine, size, mode="bilinear", align_corners=False)
        elif own < stride:
            cosine = F.avg_pool2d(cosine, stride // own)
        maps.append(cosine)
    return torch.cat(maps, dim=1)


EXTENT = 5
"""Numbers by which an embedding tells the drawn size: its log width and log height over that of a 16 px box, and 1; then the logs
of how much wider and higher it was drawn than what is found there (`deal.read_wider`), 0 if that is not known. Zeros if nothing
was drawn."""


def sample_prompts(feature: Tensor, index: Tensor, points_xy: Tensor, stride: int) -> Tensor:
    """`sample_map` of every prompt set's image: (B, C, h, w), index (N,), points (N, P, 2) -> (N, P, C)."""
    if len(feature) == 1:
        return sample_map(feature, points_xy.reshape(1, -1, 2), stride)[0].unflatten(0, points_xy.shape[:2])
    return sample_map(feature.index_select(0, index), points_xy, stride)


class PointEmbedding(nn.Module):
    """PE: each prompt set becomes one vector for what it wants and one for what it does not want.

    A click is described by a 3 x 3 window of features on every level (spaced by the level's stride), gets an embedding of
    its label, and attends to the coarse tokens of its `NEIGHBOURHOOD`. Positive clicks are averaged, negative ones too.

    The embedding is followed by the backbone's own vectors at the click (`contrast_keys`), and by the size of the drawn boxes.

    Source: paper, PE. Choice: window, pooling by the mean, so that a set of clicks has no order and one vector can be saved.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim, self.whole = config.hidden_dim, config.point_embedding
        window = [[dx, dy] for dy in (-1.0, 0.0, 1.0) for dx in (-1.0, 0.0, 1.0)] if self.whole else [[0.0, 0.0]]
        self.register_buffer("window", torch.tensor(window), persistent=False)
        self.describe = nn.Sequential(
            nn.Linear(len(window) * (config.fine_dim + 3 * dim), 2 * dim),
            nn.LayerNorm(2 * dim),
            nn.GELU(),
            nn.Linear(2 * dim, dim),
        )
        self.label = nn.Embedding(2, dim)
        self.extent = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, dim))
        nn.init.zeros_(self.extent[-1].weight)
        nn.init.zeros_(self.extent[-1].bias)
        if not self.whole:
            return
        self.attention = RotaryAttention(dim, config.num_heads, wavelengths=(64.0, 512.0))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, maps: list[Tensor], keys: list[Tensor], keep: Tensor, prompts: PointPrompts) -> Tensor:
        """Embeddings (N, 2, E) float32: [:, 0] of what is meant, [:, 1] of what is not, zero without negative clicks.

        Args:
            maps: four maps of the B images. keys: of `contrast_keys`. keep: (B, S) coarse tokens that are not padding.
        """
        index, (n, p) = prompts.image_index, prompts.labels.shape
        described = []
        for feature, stride in zip(maps, STRIDES, strict=True):
            spots = (prompts.points[:, :, None, :] + self.window * stride).flatten(1, 2)  # (N, 9P, 2)
            described.append(sample_prompts(feature, index, spots, stride).unflatten(1, (p, len(self.window))).flatten(2))
        e = self.describe(torch.cat(described, dim=-1)) + self.label(prompts.labels.clamp(min=0))  # (N, P, D)

        if self.whole:
            coarse = maps[-1]
            tokens = of_image(coarse.permute(0, 2, 3, 1).flatten(1, 2), index)
            pos = cell_centres(*coarse.shape[-2:], STRIDES[-1], coarse.device).flatten(0, 1).expand(n, -1, -1)
            near = (prompts.points[:, :, None] - pos[:, None]).abs().amax(-1) <= NEIGHBOURHOOD  # (N, P, S)
            e = e + self.attention(self.norm1(e), prompts.points, tokens, pos, near & of_image(keep, index)[:, None])
            e = e + self.ffn(self.norm2(e))
        drawn = (prompts.sizes > 0).all(-1, keepdim=True) & (prompts.labels == 1)[..., None]  # (N, P, 1)
        extent = torch.cat([prompts.sizes.clamp(min=0.5).log() - 2.77, torch.ones_like(prompts.sizes[..., :1])], dim=-1) * drawn
        extent = extent.sum(1, keepdim=True) / drawn.sum(1, keepdim=True).clamp(min=1)  # (N, 1, 3)
        # what a place is must not be learned by heart: no gradient reaches the backbone through its own vectors
        own = [
            F.normalize(sample_prompts(key, index, prompts.points, stride), dim=-1)
            for key, stride in zip(keys, STRIDES, strict=False)
        ]
        wanted = torch.stack([prompts.labels == 1, prompts.labels == 0], dim=1).float()  # (N, 2, P)
        pooled = wanted @ torch.cat([e.float(), *own], dim=-1) / wanted.sum(-1, keepdim=True).clamp(min=1)
        return torch.cat([pooled, F.pad(extent, (0, EXTENT - 3, 0, 1))], dim=-1)

    def split(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (N, 2, E) -> what the learned parts read (N, 2, D), the backbone's vectors (N, 2, .), the extent (N, 5)."""
        dim = self.label.embedding_dim
        extent = embedding[:, 0, -EXTENT:]
        extent = extent / extent[:, 2:3].clamp(min=1e-6)  # of several embeddings in the mean, those that were drawn
        learned = embedding[..., :dim]
        # [:, None, :3] and not [:, :3]: of two slices that make up a whole tensor OpenVINO makes a node that it cannot read
        told = learned[:, :1] + self.extent(extent[:, None, :3])
        return torch.cat([told, learned[:, 1:]], dim=1), embedding[..., dim:-EXTENT], extent


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What a prompt lights up on one map of its image, of stride 4 or 16."""

    hidden: Tensor
    """(N, C, h, w) features modulated by the prompt."""
    peak_logits: Tensor
    """(N, h, w) float32; its sigmoid peaks at 1 on the centre of every object: where the queries go."""
    density: Tensor
    """(N, h, w) float32, objects per cell; it sums to the count: how many queries there are."""
    boxes: Tensor
    """(N, h, w, 4) float32 cxcywh pixels: the box of the object that a cell lies on."""


class DensityActivation(nn.Module):
    """Point-guided density activation: the embedding generates kernels and a FiLM scale and shift for one map.

    The response to the negatives' kernels is subtracted from that to the positives'. One hidden map then gives peaks,
    density and a first box for every cell.

    Source: paper, DGQA. Choice: 1 x 1 kernels (the map's receptive field is wide already); the density as the intensity of a
    Poisson process and a separate peak map, since one map cannot both sum to the count and peak at 1. Choice: cross-scale
    queries (beyond the paper) are a second module of this kind, on the stride-16 map, for objects of `LARGE` pixels or more.
    """

    def __init__(self, config: ModelConfig, stride: int = STRIDES[0]):
        super().__init__()
        self.similarity = 6 * config.similarity
        dim, fine, kernels = config.hidden_dim, config.fine_dim, config.num_kernels
        self.stride, channels = stride, fine if stride == STRIDES[0] else dim
        self.kernels = nn.Linear(dim, kernels * channels)
        self.negative_gain = nn.Parameter(torch.ones(kernels))
        self.film = nn.Linear(dim, 2 * channels)
        self.mix = conv_norm(channels + kernels + self.similarity, fine)
        self.heads = nn.Conv2d(fine, 6, 1)
        nn.init.normal_(self.heads.weight, std=0.01)
        usual = math.log(4 * stride)
        with torch.no_grad():  # rare peaks, 0.002 objects per cell, boxes of four cells centred on their own
            self.heads.bias.copy_(torch.tensor([-4.0, -6.0, 0.0, 0.0, usual, usual]))

    def forward(
        self, map_: Tensor, embedding: Tensor, has_negative: Tensor, keep: Tensor, keys: list[Tensor], vectors: Tensor
    ) -> Activation:
        """map_ (N, C, h, w), embedding (N, 2, D), has_negative (N,) bool, keep (N, h, w) False on padding; keys and vectors
        (N, 2, .) for `similarity_maps`."""
        n, c, h, w = map_.shape
        kernels = self.kernels(embedding).unflatten(-1, (-1, c))  # (N, 2, G, C)
        cells = map_.permute(0, 2, 3, 1).flatten(1, 2)  # (N, hw, C)
        response = cells @ kernels[:, 0].transpose(1, 2).to(cells.dtype)
        any_negative = torch.compiler.is_compiling() or has_negative.any()
        if any_negative:
            against = cells @ kernels[:, 1].transpose(1, 2).to(cells.dtype)
            response = response - has_negative[:, None, None] * self.negative_gain.to(cells.dtype) * against
        scale, shift = self.film(embedding[:, 0])[:, None].to(cells.dtype).chunk(2, dim=-1)
        modulated = F.relu(torch.addcmul(shift, cells, 1 + scale))
        parts = [modulated, response / c**0.5]  # cells in rows: the channels-last memory of a map
        if self.similarity:
            alike = similarity_maps(keys, vectors[:, 0], self.stride)
            unlike = similarity_maps(keys, vectors[:, 1], self.stride) if any_negative else torch.zeros_like(alike)
            alike = torch.cat([alike, unlike], dim=1)
            parts.append(2 * alike.flatten(2).transpose(1, 2).to(cells.dtype))
        both = torch.cat(parts, dim=-1)
        hidden = self.mix(both.unflatten(1, (h, w)).permute(0, 3, 1, 2))

        out = self.heads(hidden).float()
        size = out[:, 4:6].clamp(-1.0, 7.0).exp().permute(0, 2, 3, 1)
        centre = cell_centres(h, w, self.stride, map_.device) + out[:, 2:4].permute(0, 2, 3, 1).clamp(-2.0, 2.0) * size
        return Activation(
            hidden=hidden,
            peak_logits=out[:, 0].masked_fill(~keep, -20.0),
            density=F.softplus(out[:, 1]) * keep,
            boxes=torch.cat([centre, size], dim=-1),
        )


def local_peaks(peak_logits: Tensor) -> Tensor:
    """(N, h, w) -> (N, h * w) strength of each cell as a place for a query: its logit at a 3 x 3 local maximum, else 100 less.

    Choice: local maxima, so that one object does not use up the queries of its neighbours.
    """
    local_max = F.max_pool2d(peak_logits[:, None], 3, 1, 1)[:, 0]
    is_peak = (peak_logits == local_max) & (peak_logits > -20.0)  # padding is a plain of -20: without peaks, and last
    return torch.where(is_peak, peak_logits, peak_logits - 100).flatten(1)


def allocate_queries(
    strength: Tensor, count: Tensor, config: ModelConfig, at_least: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cells where queries start, per prompt set: the strongest local peaks, as many as the count asks for.

    K = clamp(ceil(queries_per_object x count) + extra_queries, min_queries, max_queries), padded to the largest of the batch; or
    `fixed_queries`.

    Args:
        strength: (N, S) of `local_peaks`, all cells of one map or of several. count: (N,) estimated objects. at_least: (N,)
            known objects, in training.

    Returns:
        cells (N, K) indices into the S cells, valid (N, K) bool.

    Source: paper, DGQA.

    >>> peaks = torch.tensor([[[9.0, 8.0, 0.0, 0.0, 7.0]]])  # the 8 is no peak: its neighbour is higher
    >>> cells, valid = allocate_queries(local_peaks(peaks), torch.zeros(1), ModelConfig(min_queries=2, extra_queries=0))
    >>> cells.tolist(), valid.tolist()
    ([[0, 4]], [[True, True]])
    """
    if at_least is not None:
        count = torch.maximum(count, at_least)
    wanted = torch.ceil(config.queries_per_object * count) + config.extra_queries
    if config.fixed_queries:
        wanted = torch.full_like(wanted, config.fixed_queries)
    # of a count that is not a number the fewest: training then reports the loss that is not finite
    wanted = wanted.nan_to_num().clamp(config.min_queries, min(config.max_queries, strength.shape[1])).long()
    k = wanted.max().item() if wanted.shape[0] else 0
    if torch.compiler.is_compiling():
        torch._check(k >= config.min_queries)
        torch._check(k <= strength.shape[1])
    cells = strength.topk(k, dim=1).indices
    return cells, torch.arange(k, device=cells.device) < wanted[:, None]
