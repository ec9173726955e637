"""`dealkit.model.decoder`: what queries read round their boxes, and boxes that move with the image."""

import torch

from dealkit.model.decoder import BoxReader, DecoderLayer, DeformableAttention, refine
from dealkit.model.encoder import STRIDES, cell_centres


def test_deformable_attention_is_the_same_at_any_place_of_a_larger_canvas():
    torch.manual_seed(0)
    attention = DeformableAttention(32, 2, 4, 4)
    torch.nn.init.normal_(attention.offsets.weight, std=0.1)
    x, reference = torch.randn(1, 5, 32), torch.cat([16 + 32 * torch.rand(1, 5, 2), 4 + 8 * torch.rand(1, 5, 2)], -1)
    lit, maps = torch.rand(1, 16, 16), [torch.randn(1, 32, 64 // s, 64 // s) for s in STRIDES]
    results = []
    for (height, width), (top, left) in [((64, 64), (0, 0)), ((128, 96), (0, 0)), ((128, 96), (64, 32))]:

        def paste(content, stride, height=height, width=width, top=top, left=left):
            canvas = torch.zeros(*content.shape[:-2], height // stride, width // stride)
            canvas[..., top // stride : (top + 64) // stride, left // stride : (left + 64) // stride] = content
            return canvas

        values = torch.cat([paste(m, s).flatten(2).transpose(1, 2) for m, s in zip(maps, STRIDES, strict=True)], dim=1)
        shift = torch.tensor([left, top, 0.0, 0.0])
        results.append(attention(x, reference + shift, values, paste(lit, 4), torch.tensor([0])))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)


def test_deformable_attention_sums_what_grid_sample_reads():
    """Positions inside, on the border and outside, in an image that is not the first; the gain of the activation switched off."""
    torch.manual_seed(0)
    attention = DeformableAttention(32, 2, 4, 4)
    attention.gain.data.zero_()
    attention.out = torch.nn.Identity()
    maps = [torch.randn(2, 32, 64 // s, 96 // s) for s in STRIDES]
    reference = torch.cat(
        [torch.tensor([[[0.0, 0.0], [96.0, 64.0], [50.0, 33.0], [-9.0, 70.0]]]), torch.full((1, 4, 2), 12.0)], -1
    )
    x, values = torch.randn(1, 4, 32), torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
    got = attention(x, reference, values, torch.rand(1, 16, 24), torch.tensor([1]))
    where = reference[..., None, None, None, :2] + attention.offsets.bias.view(2, 4, 4, 2) * 8  # half of the box and 4 px
    expected = torch.zeros(4, 2, 16)
    for head in range(2):
        for level, m in enumerate(maps):
            grid = where[:, :, head, level] / torch.tensor([48.0, 32.0]) - 1
            read = torch.nn.functional.grid_sample(m[1:, 16 * head : 16 * head + 16], grid, align_corners=False)  # (1, 16, 4, 4)
            expected[:, head] += read[0].sum(-1).T / 16  # the weights of 16 samples are equal at the start
    torch.testing.assert_close(got[0], expected.flatten(1), rtol=1e-4, atol=1e-5)


def test_a_box_is_read_in_order_from_the_level_of_its_size():
    """A map whose cells hold their own x in pixels, on every level: the grid of 7 x 7 reads its own positions back."""
    reader, read = BoxReader(1, 8), []
    reader.describe = torch.nn.Identity()
    edges = torch.cat([cell_centres(256 // s, 512 // s, s, torch.device("cpu")).flatten(0, 1) for s in (4, 8, 16)])[None, :, :1]
    marks = torch.cat([torch.full((1, 256 * 512 // s**2, 1), float(s)) for s in (4, 8, 16)], dim=1)
    boxes = torch.tensor(
        [[[100.0, 100.0, 20.0, 8.0], [200.0, 120.0, 47.0, 47.0], [200.0, 120.0, 10.0, 50.0], [250.0, 120.0, 96.0, 9.0]]]
    )
    read = reader(boxes, edges, (128, 64), torch.tensor([0])).view(4, 7, 7)
    half = 0.5 * (1.5 * boxes[0, :, 2] + 4)
    expected = boxes[0, :, :1] + half[:, None] * torch.linspace(-1, 1, 7)
    torch.testing.assert_close(read, expected[:, None].expand(-1, 7, -1))
    assert reader(boxes, marks, (128, 64), torch.tensor([0])).mean(-1).tolist() == [[4, 4, 8, 16]]
    assert reader(boxes[:, :0], edges, (128, 64), torch.tensor([0])).shape == (1, 0, 49)


def test_a_decoder_layer_moves_its_boxes_along_with_the_queries(tiny_config):
    torch.manual_seed(0)
    layer = DecoderLayer(tiny_config)
    torch.nn.init.normal_(layer.box[-1].weight, std=0.1)
    x, reference = torch.randn(1, 5, 32), torch.cat([40 + 32 * torch.rand(1, 5, 2), 4 + 8 * torch.rand(1, 5, 2)], -1)
    flat = torch.ones(1, 1360, 32), torch.ones(1, 1344, tiny_config.edge_dim)
    world = (
        torch.ones(1, 1, 5, dtype=torch.bool),
        *flat,
        torch.ones(1, 32, 32),
        torch.tensor([0]),
        torch.tensor([[0.3, -0.2, 1.0]]),
    )
    _, here, scores = layer(x, reference, *world)
    shift = torch.tensor([20.0, 12.0, 0.0, 0.0])
    _, there, same = layer(x, reference + shift, *world)
    torch.testing.assert_close(there - shift, here, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same, scores, rtol=1e-4, atol=1e-4)
    extents = [torch.tensor([e]) for e in ([0.0, 0.0, 0.0], [0.3, -0.2, 0.0], [0.3, -0.2, 1.0])]  # the last number: known
    none, unknown, known = (layer(x, reference, *world[:-1], extent)[1] for extent in extents)
    assert torch.equal(none, unknown) and not torch.allclose(none, known) and torch.equal(known, here)


def test_refining_is_relative_to_the_box_and_bounded():
    small, large = torch.tensor([10.0, 10.0, 2.0, 4.0]), torch.tensor([10.0, 10.0, 20.0, 40.0])
    delta = torch.tensor([0.5, -0.5, 0.0, 0.0])
    assert refine(small, delta).tolist() == [11, 8, 2, 4] and refine(large, delta).tolist() == [20, -10, 20, 40]
    wild = refine(small, torch.tensor([9.0, -9.0, 9.0, -9.0]))  # moves end at two sizes, scales at exp(2); no side under 0.5 px
    torch.testing.assert_close(wild, torch.tensor([14.0, 2.0, 2 * 7.389056, 4 / 7.389056]), rtol=1e-5, atol=1e-5)
    assert refine(torch.tensor([1.0, 1.0, 0.6, 4000.0]), torch.tensor([0, 0, -2.0, 2.0]))[2:].tolist() == [0.5, 4096]
