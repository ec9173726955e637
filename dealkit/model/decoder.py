"""Decoder: queries attend to each other and to the density-modulated maps, and refine their boxes layer by layer.

`B` images, `N` prompt sets, `K` queries, `D` width, `M` heads, `L` levels, `T` sampling points, `h, w` size of a map.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dealkit.config import ModelConfig
from dealkit.model.encoder import RotaryAttention


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention in plain PyTorch, reading values modulated by the activation.

    Every head samples T points per level around its query's box, offsets in units of the box (plus 4 px, so that a 2 px
    object still looks around itself). A value sampled where the activation a is 0..1 counts (1 + gain x a) times.

    Source: Deformable DETR, arXiv 2010.04159; paper, DGQA (b), "modulates the features the decoder reads". Choice: modulating
    samples, not maps, is the same sum and makes a click cheap, since values are computed once per image.
    """

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int):
        super().__init__()
        self.shape = (num_heads, num_levels, num_points)
        samples = num_heads * num_levels * num_points
        self.offsets, self.weights = nn.Linear(dim, 2 * samples), nn.Linear(dim, samples)
        self.gain, self.out = nn.Parameter(torch.ones(num_heads)), nn.Linear(dim, dim)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        angle = torch.arange(num_heads) * (2 * math.pi / num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)  # heads look in different directions, points at growing distance
        reach = torch.arange(1, num_points + 1) / num_points
        with torch.no_grad():
            self.offsets.bias.copy_((direction[:, None, None] * reach[:, None]).expand(-1, num_levels, -1, -1).flatten())

    def forward(self, x: Tensor, reference: Tensor, values: Tensor, activation: Tensor, index: Tensor) -> Tensor:
        """x (N, K, D), reference (N, K, 4) cxcywh pixels, values (B, S, D) cells of all levels in any precision, activation
        (N, h, w) of stride 4, else float32; index (N,) the image of each set."""
        n, k, _ = x.shape
        heads, levels, points = self.shape
        offsets = self.offsets(x).float().view(n, k, heads, levels, points, 2)
        weights = self.weights(x).float().view(n, k, heads, levels * points).softmax(-1)
        where = reference[:, :, None, None, None, :2] + offsets * 0.5 * (reference[:, :, None, None, None, 2:] + 4.0)

        h, w = activation.shape[-2:]
        grid = where.flatten(2, 4) / torch.tensor([2.0 * w, 2.0 * h], device=x.device) - 1
        lit = F.grid_sample(activation[:, None], grid, align_corners=False)[:, 0]
        weights = weights * (1 + self.gain[:, None] * lit.view(n, k, heads, levels * points))

        cell, share = corners(where, *(t[:, None] for t in levels_of((w, h), levels, x.device)))
        row = (index[:, None, None, None, None, None] * values.shape[1] + cell) * heads
        row = row + torch.arange(heads, device=x.device)[:, None, None, None]
        share = share * weights.view(n, k, heads, levels, points, 1)
        table = values.reshape(-1, values.shape[-1] // heads)  # (B S M, D / M)
        bags = (n * k * heads, levels * points * 4)
        total = sum_rows(row.view(bags), table, share.view(bags))
        return self.out(total.view(n, k, values.shape[-1]))


class BoxReader(nn.Module):
    """Reads a 7 x 7 grid over a box, in order, from the map whose cells suit the size of the box.

    The grid spans one and a half times the box plus 4 px, so that the edges lie inside it.

    Source: the region head of detectors since Faster R-CNN, arXiv 1506.01497, with the levels of FPN, arXiv 1612.03144.
    Choice: attention sums its samples, and where they lay is lost; with it alone, after 8,000 steps, the second and the third
    layer did not improve a box. The paper says nothing of it.
    """

    side = 7

    def __init__(self, edge_dim: int, dim: int):
        super().__init__()
        self.describe = nn.Sequential(nn.Linear(self.side**2 * edge_dim, dim), nn.GELU(), nn.Linear(dim, dim))
        nn.init.zeros_(self.describe[-1].weight)
        nn.init.zeros_(self.describe[-1].bias)

    def forward(self, reference: Tensor, edges: Tensor, size_wh: tuple[int, int], index: Tensor) -> Tensor:
        """reference (N, K, 4) cxcywh pixels, edges (B, S, E) cells of strides 4, 8 and 16, size_wh of the first in cells, index
        (N,) the image of each set -> (N, K, D)."""
        n, k, _ = reference.shape
        step = torch.linspace(-1, 1, self.side, device=reference.device)
        grid = torch.stack(torch.meshgrid(step, step, indexing="xy"), dim=-1).flatten(0, 1)  # (49, 2)
        where = reference[:, :, None, :2] + 0.5 * (1.5 * reference[:, :, None, 2:] + 4) * grid
        level = (reference[..., 2:].amax(-1) / 24).log2().nan_to_num().clamp(0, 2).long()  # stride 4 up to 48 px, 8 up to 96 px
        cell, share = corners(where, *(t[level][:, :, None] for t in levels_of(size_wh, 3, reference.device)))
        row = index[:, None, None, None] * edges.shape[1] + cell
        read = sum_rows(row.view(-1, 4), edges.flatten(0, 1), share.view(-1, 4))
        return self.describe(read.view(n, k, self.side**2 * edges.shape[-1]))


def levels_of(size_wh: tuple[int, int], levels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Strides (L, 1), sizes (L, 2) in cells and numbers of the first cell (L, 1) of maps that follow each other, finest first,
    each half the one before.

    >>> levels_of((8, 4), 2, torch.device("cpu"))[2].tolist()
    [[0], [32]]
    """
    size = torch.tensor([[side // 2**level for side in size_wh] for level in range(levels)], device=device)
    area = size.prod(1)
    return 4.0 * 2.0 ** torch.arange(levels, device=device)[:, None], size, (area.cumsum(0) - area)[:, None]


def corners(where: Tensor, stride: Tensor, size_wh: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells around positions on a map, and their bilinear shares: 0 for cells outside it.

    Choice: rows and weights for one `embedding_bag`, which gathers and sums all levels at once; on a CPU a training step of it
    takes two thirds of `grid_sample` on planes, with the same sums.

    Args:
        where: (..., 2) xy pixels. stride, size_wh, start: (..., 1), (..., 2), (..., 1) as of `levels_of`.

    Returns:
        (..., 4) int64 numbers of cells, (..., 4) float32 shares.

    >>> cell, share = corners(torch.tensor([4.0, 2.0]), *(t[0] for t in levels_of((2, 1), 1, torch.device("cpu"))))
    >>> cell.tolist(), share.tolist()  # half-way between the two cells of a map
    ([0, 1, 0, 1], [0.5, 0.5, 0.0, 0.0])
    """
    # of a position that is not a number any cell: training then reports the loss that is not finite
    at = (where / stride - 0.5).nan_to_num()
    low = at.detach().floor()
    right = at - low
    (x1, y1), (x2, y2) = low.unbind(-1), (low + 1).unbind(-1)
    (right, down), (left, up) = right.unbind(-1), (1 - right).unbind(-1)
    # the corners in rows of four: in tensors of seven axes OpenVINO multiplies the wrong numbers
    x, y = torch.stack([x1, x2, x1, x2], dim=-1), torch.stack([y1, y1, y2, y2], dim=-1)
    width, height = (side.float() for side in size_wh.split(1, dim=-1))
    inside_x, inside_y = x.clamp(min=0).minimum(width - 1), y.clamp(min=0).minimum(height - 1)
    across, along = torch.stack([left, right, left, right], dim=-1), torch.stack([up, up, down, down], dim=-1)
    share = across * along * ((x == inside_x) & (y == inside_y))
    return start + inside_y.long() * size_wh[..., :1] + inside_x.long(), share


EMBEDDING_BAG = {"cpu", "cuda"}
"""Devices that have `embedding_bag` in every PyTorch that is supported; MPS has it since 2.10."""


def sum_rows(rows: Tensor, table: Tensor, shares: Tensor) -> Tensor:
    """Weighted sums of rows: (bags, J) numbers of rows, table (R, C), shares (bags, J) float32 -> (bags, C) float32.

    Choice: in the precision of the table; a copy of a whole image's cells in float32 took longer than to read them. Where
    `embedding_bag` may be missing, the same sums by gathering.

    >>> sum_rows(torch.tensor([[0, 2]]), torch.tensor([[1.0], [0.0], [4.0]]), torch.tensor([[0.5, 0.25]])).tolist()
    [[1.5]]
    """
    if table.device.type not in EMBEDDING_BAG or torch.compiler.is_compiling():
        return (table[rows] * shares[..., None].to(table.dtype)).sum(1).float()
    return F.embedding_bag(rows, table, per_sample_weights=shares.to(table.dtype), mode="sum").float()


class DecoderLayer(nn.Module):
    """Self-attention, deformable attention, feed-forward; then a score and a refined box."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.hidden_dim
        self.self_attention = RotaryAttention(dim, config.num_heads, wavelengths=(8.0, 256.0))
        self.cross_attention = DeformableAttention(dim, config.num_heads, 4, config.sampling_points)
        self.reader = BoxReader(config.edge_dim, dim) if config.edge_dim else None
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.size_code = nn.Sequential(nn.Linear(5, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.box = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))
        self.score = nn.Linear(dim, 1)
        nn.init.zeros_(self.box[-1].weight)
        nn.init.zeros_(self.box[-1].bias)
        nn.init.constant_(self.score.bias, -2.0)

    def forward(
        self,
        x: Tensor,
        reference: Tensor,
        mask: Tensor,
        values: Tensor,
        edges: Tensor,
        activation: Tensor,
        index: Tensor,
        extent: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, K, D), reference (N, K, 4), mask (N, K or 1, K) of the queries that one sees, extent (N, 5) of the drawn boxes
        -> x, refined boxes (N, K, 4) cxcywh pixels, score logits (N, K)."""
        pos, size, known = reference[..., :2], reference[..., 2:].log() - 2.77, extent[:, None, 2:3]
        coded = x + self.size_code(
            torch.cat([size, known * (size - extent[:, None, :2]), known.expand_as(size[..., :1])], dim=-1)
        )
        x = self.norms[0](x + self.self_attention(coded, pos, coded, pos, mask))
        seen = self.cross_attention(x, reference, values, activation, index)
        if self.reader is not None:
            seen = seen + self.reader(reference, edges, (activation.shape[-1], activation.shape[-2]), index)
        x = self.norms[1](x + seen)
        x = self.norms[2](x + self.ffn(x))
        return x, refine(reference, self.box(x).float()), self.score(x)[..., 0].float()


def refine(reference: Tensor, delta: Tensor) -> Tensor:
    """Move a box by a share of its size and scale it: (..., 4) cxcywh pixels and (..., 4) raw numbers -> (..., 4) cxcywh pixels.

    >>> refine(torch.tensor([10.0, 10.0, 4.0, 8.0]), torch.tensor([0.5, 0.0, 0.0, 0.0]))
    tensor([12., 10.,  4.,  8.])
    """
    centre = reference[..., :2] + delta[..., :2].clamp(-2, 2) * reference[..., 2:]
    return torch.cat([centre, (reference[..., 2:] * delta[..., 2:].clamp(-2, 2).exp()).clamp(0.5, 4096.0)], dim=-1)


class Decoder(nn.Module):
    """Queries from cells of the activation and from the clicks themselves -> scores and boxes of every layer."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim, fine = config.hidden_dim, config.fine_dim
        self.content = nn.Sequential(nn.Linear(fine, dim), nn.LayerNorm(dim))
        self.prompt = nn.Linear(dim, 2 * dim)
        self.clicked = nn.Parameter(torch.zeros(dim))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))

    def forward(
        self,
        content: Tensor,
        reference: Tensor,
        clicked: Tensor,
        group: Tensor,
        embedding: Tensor,
        extent: Tensor,
        values: Tensor,
        edges: Tensor,
        activation: Tensor,
        index: Tensor,
    ) -> list[tuple[Tensor, Tensor]]:
        """One (boxes (N, K, 4) cxcywh pixels, logits (N, K)) per layer; logits of padding are -20.

        Args:
            content: (N, K, C) activation features where each query starts. reference: (N, K, 4) its first box.
            clicked: (N, K) bool, the query of a click itself. group: (N, K) int64, queries see those of their own group; 0 is
                padding. embedding: (N, D) of what is meant. extent: (N, 5) of the drawn boxes, zeros if there are none.
            values: (B, S, D), cells of the four maps. edges: (B, S', E), cells of the finest three; any precision.
            activation: (N, h, w) float32, 0..1. index: (N,) the image of each set.
        """
        scale, shift = self.prompt(embedding)[:, None].chunk(2, dim=-1)
        x = self.content(content) * (1 + scale) + shift + clicked[..., None] * self.clicked
        mask = group[:, :, None] == group[:, None]
        outputs = []
        for layer in self.layers:
            x, boxes, logits = layer(x, reference, mask, values, edges, activation, index, extent)
            outputs.append((boxes, logits.masked_fill(group == 0, -20.0)))
            reference = boxes.detach()
        return outputs
