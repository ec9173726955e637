"""`dealkit.model`: shapes, batches, prompts, queries, gradients, and boxes that do not depend on the place in the image."""

from dataclasses import replace

import pytest
import torch

from dealkit.config import BACKBONES, DEFAULT_CHECKPOINT, MODELS, LossConfig, ModelConfig
from dealkit.files import PROJECT_ROOT
from dealkit.model.checkpoint import load_model, save_model
from dealkit.model.deal import build_model, decode_in_groups
from dealkit.model.decoder import BoxReader, DecoderLayer, DeformableAttention, refine
from dealkit.model.encoder import STRIDES, Backbone, ContextLayer, RotaryAttention, cell_centres, nano_stages, rotate
from dealkit.model.loss import Target, criterion
from dealkit.model.queries import allocate_queries, local_peaks, of_image, sample_map
from dealkit.prompts import stack_prompts
from dealkit.report.publish import LARGEST_SHIFT, SHAPES, box_shift

ONE = (torch.tensor([[20.0, 30.0]]), torch.tensor([1]))
THREE = (torch.tensor([[40.0, 30.0], [8.0, 50.0], [60.0, 12.0]]), torch.tensor([1, 1, 1]))
MIXED = (torch.tensor([[40.0, 30.0], [8.0, 50.0]]), torch.tensor([1, 0]))


def images(*size_hw, batch=1, seed=0):
    return torch.randn(batch, 3, *size_hw, generator=torch.Generator().manual_seed(seed))


def with_density(model, per_cell):
    """Sets the density of every cell: softplus(bias) with the weights at zero."""
    with torch.no_grad():
        model.activate.heads.weight[1] = 0
        model.activate.heads.bias[1] = torch.tensor(per_cell).expm1().log()
        model.activate_large.heads.weight[1], model.activate_large.heads.bias[1] = 0, -30
    return model


def target(boxes, clicked):
    return Target(boxes=torch.tensor(boxes), crowd=torch.zeros(0, 4), clicked=torch.tensor(clicked))


# Shapes


@pytest.mark.parametrize("size_hw", [(32, 32), (64, 96), (160, 32), (96, 128)])
def test_maps_have_the_strides_of_the_image_at_any_multiple_of_32(tiny_model, tiny_config, size_hw):
    features = tiny_model.encode(images(*size_hw, batch=2))
    widths = [tiny_config.fine_dim] + 3 * [tiny_config.hidden_dim]
    sizes = [(size_hw[0] // s, size_hw[1] // s) for s in STRIDES]
    assert [m.shape for m in features.maps] == [(2, c, *hw) for c, hw in zip(widths, sizes, strict=True)]
    assert features.values.shape == (2, sum(h * w for h, w in sizes), tiny_config.hidden_dim)
    assert [k.shape for k in features.keep] == [(2, *sizes[0]), (2, *sizes[2]), (2, *sizes[3])]


@pytest.mark.parametrize(("size_hw", "shown"), [((64, 100), "64 x 100"), ((33, 64), "33 x 64")])
def test_a_size_that_is_no_multiple_of_32_is_refused(tiny_model, size_hw, shown):
    with pytest.raises(ValueError, match=f"multiples of 32, got {shown}"):
        tiny_model.encode(images(*size_hw))


@pytest.mark.parametrize(
    ("sets", "index"), [([], []), ([ONE], [1]), ([ONE, THREE, MIXED], [1, 0, 1])], ids=["no set", "one set", "three sets"]
)
def test_outputs_have_one_row_per_prompt_set(tiny_model, sets, index):
    out = tiny_model(images(64, 96, batch=2), stack_prompts(sets, index))
    n, k = out.valid.shape
    assert n == len(sets) == len(out.count)
    assert out.pred_logits.shape == (n, k) and out.pred_boxes.shape == out.reference_points.shape == (n, k, 4)
    assert out.activation.density.shape == out.activation.peak_logits.shape == (n, 16, 24)
    assert out.activation.boxes.shape == (n, 16, 24, 4)
    assert [(b.shape, s.shape) for b, s in out.aux_outputs] == [((n, k, 4), (n, k))]  # two layers: one before the last
    assert all(t.dtype == torch.float32 for t in (out.pred_logits, out.pred_boxes, out.count))


def test_a_prompt_reads_its_own_image(tiny_model):
    batch = images(64, 64, batch=2)
    out = tiny_model(batch, stack_prompts([ONE], [1]))
    alone = tiny_model(batch[1:], stack_prompts([ONE], [0]))
    torch.testing.assert_close(out.pred_boxes, alone.pred_boxes, rtol=1e-4, atol=1e-3)
    other = tiny_model(batch, stack_prompts([ONE], [0]))
    assert (out.activation.peak_logits - other.activation.peak_logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_maps_of_strides_4_to_32(name):
    backbone = Backbone(name).eval()
    with torch.no_grad():
        maps = backbone(images(64, 96))
    assert [m.shape for m in maps] == [(1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, STRIDES, strict=True)]


@pytest.mark.parametrize("name", [b for b in BACKBONES if b != "nano"])
def test_every_backbone_drives_the_whole_model(name, tiny_config):
    model = build_model(replace(tiny_config, backbone=name, decoder_layers=1)).eval()
    with torch.no_grad():
        out = model(images(64, 64), stack_prompts([ONE], [0]))
    assert torch.isfinite(out.pred_boxes).all() and torch.isfinite(out.pred_logits).all()


def test_the_published_models_are_as_small_as_said():
    counts = {name: sum(p.numel() for p in build_model(config).parameters()) for name, config in MODELS.items()}
    assert counts["nano"] <= 10_000_000 and counts["small"] <= 20_000_000
    stages, widths = nano_stages()
    assert round(sum(p.numel() for stage in stages for p in stage.parameters()) / 1e6, 1) == 5.0
    assert widths == [48, 96, 192, 320]


# Batches


def test_prompt_sets_in_a_batch_equal_one_by_one(tiny_model):
    features = tiny_model.encode(images(64, 96, batch=2))
    sets, index = [ONE, THREE, MIXED], [1, 0, 1]
    together = tiny_model.detect(features, stack_prompts(sets, index))
    for n, (of_set, image) in enumerate(zip(sets, index, strict=True)):
        alone = tiny_model.detect(features, stack_prompts([of_set], [image]))
        for name in ("pred_boxes", "pred_logits", "reference_points"):
            got, expected = getattr(together, name)[n][together.valid[n]], getattr(alone, name)[0][alone.valid[0]]
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(together.count[n], alone.count[0])


def test_a_set_with_many_queries_does_not_change_the_sets_beside_it():
    """Groups of different lengths are decoded apart; padding to the longest gives the same."""
    calls = []

    def decode(rows, k):
        calls.append((rows.tolist(), k))
        value = rows[:, None] * 100.0 + torch.arange(k)
        return [(value[..., None].expand(-1, -1, 4), value)]

    valid = torch.arange(50) < torch.tensor([50, 3, 4])[:, None]
    boxes, logits = decode_in_groups(decode, valid)[0]
    assert calls == [([1, 2], 4), ([0], 50)]  # 2 x 4 + 50 = 58 queries instead of 150
    assert torch.equal(logits[valid], (torch.arange(3)[:, None] * 100.0 + torch.arange(50))[valid])
    assert (logits[1:, 4:] == -20).all() and boxes.shape == (3, 50, 4)
    calls.clear()
    decode_in_groups(decode, torch.ones(3, 5, dtype=torch.bool))
    assert calls == [([0, 1, 2], 5)]


def test_images_in_a_batch_equal_one_by_one_on_the_same_canvas(tiny_model):
    batch = images(96, 64, batch=2)
    batch[1, :, 50:], batch[1, :, :, 40:] = 0, 0
    sizes = [(96, 64), (50, 40)]
    together = tiny_model.encode(batch, sizes)
    for b, size in enumerate(sizes):
        alone = tiny_model.encode(batch[b : b + 1], [size])
        for got, expected in zip([*together.maps, together.values], [*alone.maps, alone.values], strict=True):
            torch.testing.assert_close(got[b], expected[0], rtol=1e-4, atol=1e-4)


def test_nothing_is_counted_or_started_on_padding(tiny_model):
    out = tiny_model(images(64, 96), stack_prompts([ONE], [0]), [(64, 50)])
    # cells have their centres at 2, 6, ..., 46, 50: the 13th is not inside, so columns 12 and on are padding
    assert (out.activation.density[..., 12:] == 0).all() and (out.activation.density[..., :12] > 0).all()
    assert (out.activation.peak_logits[..., 12:] == -20).all()
    # of stride 16 they are at 8, 24, 40, 56: column 3 and on is padding
    assert (out.large.density[..., 3:] == 0).all() and (out.large.density[..., :3] > 0).all()
    dense, coarse = out.activation.boxes.clone(), out.large.boxes.clone()
    dense[:, :, 12:], coarse[:, :, 3:] = -1, -1
    starts = out.reference_points[out.valid]
    starts[:3, 2:] /= torch.tensor(tiny_model.config.click_sizes)[:, None]  # the click's own
    every = torch.cat([dense.reshape(1, -1, 4), coarse.reshape(1, -1, 4)], dim=1)
    assert ((starts[:, None] - every).abs() < 1e-4).all(-1).any(1).all()
    torch.testing.assert_close(out.count, out.activation.density.sum((1, 2)) + out.large.density.sum((1, 2)))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (15, 15)])
def test_an_image_smaller_than_a_coarse_cell_still_has_a_token(tiny_model, size):
    out = tiny_model(images(32, 64), stack_prompts([(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))], [0]), [size])
    assert torch.isfinite(out.pred_boxes).all() and torch.isfinite(out.pred_logits).all()


# Prompts


def test_the_order_of_the_points_changes_nothing(tiny_model):
    features, (points, labels) = tiny_model.encode(images(64, 96)), THREE
    order = torch.tensor([2, 0, 1])
    out = tiny_model.detect(features, stack_prompts([(points, labels)], [0]))
    turned = tiny_model.detect(features, stack_prompts([(points[order], labels)], [0]))
    torch.testing.assert_close(turned.activation.density, out.activation.density)
    own = torch.cat([order, order + 3, order + 6])  # every click starts three queries
    torch.testing.assert_close(turned.pred_boxes[:, :9], out.pred_boxes[:, own], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(turned.pred_logits[:, 9:], out.pred_logits[:, 9:], rtol=1e-4, atol=1e-4)


def test_a_click_starts_a_query_of_every_size(make_tiny, tiny_config):
    prompts = stack_prompts([THREE, ONE], [0, 0])
    model = make_tiny()
    out = model(images(64, 96), prompts)
    assert out.starts == 3 and out.valid[:, :9].tolist() == [[True] * 9, [True, False, False] * 3]
    first = out.reference_points[:, :9].unflatten(1, (3, 3))  # size, click
    torch.testing.assert_close(first[:, 1:, :, :2], first[:, :1, :, :2].expand(2, 2, 3, 2))  # on one centre
    for k, size in enumerate((1.0, 0.6, 1.6)):
        torch.testing.assert_close(first[:, k, :, 2:], size * first[:, 0, :, 2:])
    single = build_model(replace(tiny_config, click_sizes=(1.0,))).eval()
    single.load_state_dict(model.state_dict())
    out = single(images(64, 96), prompts)
    assert out.valid[:, :3].tolist() == [[True] * 3, [True, False, False]]
    torch.testing.assert_close(out.reference_points[:, :3], first[:, 0])


def test_more_points_and_negative_points_change_the_answer(tiny_model):
    features = tiny_model.encode(images(64, 96))
    points = THREE[0]
    prompts = [(points[:1], [1]), (points[:2], [1, 1]), (points[:2], [1, 0])]
    out = tiny_model.detect(features, stack_prompts([(p, torch.tensor(v)) for p, v in prompts], [0, 0, 0]))
    lit = out.activation.peak_logits
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert (lit[a] - lit[b]).abs().max() > 1e-4
    assert (out.pred_logits[0, 0] - out.pred_logits[2, 0]).abs() > 1e-5


def test_a_negative_point_has_an_embedding_of_its_own_and_none_is_zero(tiny_model):
    features = tiny_model.encode(images(64, 96))
    embedding = tiny_model.embed(features, stack_prompts([ONE, MIXED], [0, 0]))
    assert embedding.shape == (2, 2, 32)
    assert (embedding[0, 1] == 0).all() and embedding[1, 1].abs().max() > 0
    alone = tiny_model.embed(features, stack_prompts([(MIXED[0][:1], torch.tensor([1]))], [0]))
    torch.testing.assert_close(embedding[1, 0], alone[0, 0], rtol=1e-4, atol=1e-5)  # the negative is not in the positive


def test_every_positive_click_starts_a_query_in_its_cell(tiny_model):
    out = tiny_model(images(64, 96), stack_prompts([MIXED, THREE], [0, 0]))
    assert out.valid[:, :3].tolist() == [[True, False, False], [True, True, True]]  # a negative and padding start none
    assert (out.pred_logits[0, 1:3] == -20).all()
    for p, (x, y) in enumerate(THREE[0].tolist()):
        expected = out.activation.boxes[1, int(y) // 4, int(x) // 4]
        assert torch.equal(out.reference_points[1, p], expected)


@pytest.mark.parametrize("point", [[0.0, 0.0], [96.0, 64.0], [96.0, 0.0]])
def test_a_click_on_the_border_is_an_ordinary_one(tiny_model, point):
    out = tiny_model(images(64, 96), stack_prompts([(torch.tensor([point]), torch.tensor([1]))], [0]))
    assert torch.isfinite(out.pred_boxes).all()
    cell = out.activation.boxes[0, 0 if point[1] == 0 else 15, 0 if point[0] == 0 else 23]
    assert torch.equal(out.reference_points[0, 0], cell)


def test_sampling_beyond_the_map_reads_its_border():
    feature = torch.tensor([[[[1.0, 3.0]]]])  # cell centres at x = 2 and 6
    got = sample_map(feature, torch.tensor([[[-50.0, 2.0], [3.0, 2.0], [50.0, 50.0]]]), 4)
    assert got.flatten().tolist() == [1.0, 1.5, 3.0]  # a quarter of the way: 1 + 0.25 x 2


def test_rows_of_an_image_are_shared_where_there_is_one():
    x = torch.arange(4.0).reshape(2, 2)
    assert of_image(x, torch.tensor([1, 0, 1])).tolist() == [[2, 3], [0, 1], [2, 3]]
    one = of_image(x[:1], torch.tensor([0, 0, 0]))
    assert one.shape == (3, 2) and one.data_ptr() == x.data_ptr()


# Queries


@pytest.mark.parametrize(
    ("per_cell", "size_hw", "expected"),
    [
        (0.25, (64, 64), 100),  # 256 cells: 64 objects, ceil(83.2) + 16
        (0.125, (64, 64), 58),  # 32 objects, ceil(41.6) + 16
        (1e-8, (64, 64), 24),  # no object: the fewest, since ceil(0.0..) + 16 is less
        (1.0, (64, 64), 272),  # 256 objects would be 349, but there are no more cells on both maps
        (0.7, (192, 192), 1500),  # 2304 cells: 1613 objects, the most
        (0.1, (192, 192), 316),  # 230.4 objects: ceil(299.5) + 16
    ],
)
def test_the_density_sets_the_number_of_queries(make_tiny, per_cell, size_hw, expected):
    model = with_density(make_tiny(), per_cell)
    with torch.no_grad():
        out = model(images(*size_hw), stack_prompts([ONE], [0]))
    assert out.count.item() == pytest.approx(per_cell * size_hw[0] * size_hw[1] / 16, rel=1e-4)
    assert out.valid.sum().item() == expected + 3  # and the click's own


def test_each_prompt_set_has_its_own_number_of_queries(tiny_config):
    peaks = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    cells, valid = allocate_queries(local_peaks(peaks), torch.tensor([0.0, 20.0, 64.0]), tiny_config)
    assert valid.sum(1).tolist() == [24, 42, 100] and cells.shape == (3, 100)
    assert valid[1].tolist() == [True] * 42 + [False] * 58  # padding comes last
    assert all(len(set(row)) == 100 for row in cells.tolist())


def test_known_objects_have_queries_however_low_the_density(tiny_config):
    peaks = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    _, valid = allocate_queries(local_peaks(peaks), torch.tensor([0.0, 64.0]), tiny_config, at_least=torch.tensor([64.0, 3.0]))
    assert valid.sum(1).tolist() == [100, 100]


def test_queries_start_on_peaks_before_their_neighbours():
    peaks = torch.zeros(1, 5, 7)
    peaks[0, 1, 1], peaks[0, 1, 2], peaks[0, 3, 5] = 9.0, 8.0, 1.0  # the 8 belongs to the 9
    cells, _ = allocate_queries(local_peaks(peaks), torch.zeros(1), ModelConfig(min_queries=2, extra_queries=0))
    assert cells.tolist() == [[1 * 7 + 1, 3 * 7 + 5]]


def test_a_count_that_is_not_a_number_gives_the_fewest_queries(tiny_config):
    _, valid = allocate_queries(local_peaks(torch.zeros(1, 16, 16)), torch.tensor([float("nan")]), tiny_config)
    assert valid.sum() == 24


def test_the_number_of_queries_is_not_in_the_checkpoint(make_tiny, tiny_config):
    model = with_density(make_tiny(), 0.25)
    fewer = build_model(replace(tiny_config, min_queries=3, max_queries=10, queries_per_object=2.0)).eval()
    fewer.load_state_dict(model.state_dict())
    out, of_fewer = (m(images(64, 64), stack_prompts([ONE], [0])) for m in (model, fewer))
    assert out.valid.sum() == 103 and of_fewer.valid.sum() == 13
    torch.testing.assert_close(out.reference_points[:, :13], of_fewer.reference_points)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"hidden_dim": 48}, "embed_points"),
        ({"fine_dim": 24}, "activate"),
        ({"num_kernels": 5}, "activate"),
        ({"context_layers": 2}, "enhance"),
        ({"decoder_layers": 3}, "decoder"),
        ({"sampling_points": 2}, "decoder"),
        ({"num_heads": 4}, "decoder"),
    ],
    ids=lambda v: str(v),
)
def test_every_setting_of_the_network_reaches_it(tiny_model, tiny_config, change, differs):
    def shapes(model):
        return [(name, tensor.shape) for name, tensor in getattr(model, differs).state_dict().items()]

    assert shapes(build_model(replace(tiny_config, **change))) != shapes(tiny_model)


# Weights


def test_every_parameter_has_a_gradient(make_tiny):
    model = make_tiny().train()
    for layer in model.decoder.layers:  # it starts from zero, where what comes before has no gradient
        torch.nn.init.normal_(layer.reader.describe[-1].weight, std=0.1)
        torch.nn.init.normal_(layer.box[-1].weight, std=0.1)
    prompts = stack_prompts([ONE, THREE, MIXED], [0, 1, 1])
    large = torch.tensor([[[30.0, 30.0, 60.0, 60.0], [40.0, 30.0, 110.0, 60.0]]]).expand(3, 2, 4)  # of strides 8 and 16
    out = model.detect(model.encode(images(64, 96, batch=2)), prompts, noisy=large)
    targets = [
        target([[20.0, 30.0, 8.0, 8.0], [70.0, 20.0, 5.0, 9.0]], [0, -1, -1]),
        target([[40.0, 30.0, 6.0, 6.0], [8.0, 50.0, 9.0, 9.0]], [0, 1, -1]),
        target([[40.0, 30.0, 6.0, 6.0]], [0, -1, -1]),
    ]
    sum(criterion(out, targets, LossConfig(), torch.tensor([[0, 1], [0, 1], [0, 0]])).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without, without
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_loaded_model_gives_the_same_output(make_tiny, tmp_path):
    model = make_tiny(3)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config and not loaded.training
    out, again = (m(images(64, 96), stack_prompts([MIXED], [0])) for m in (model, loaded))
    assert torch.equal(out.pred_boxes, again.pred_boxes) and torch.equal(out.pred_logits, again.pred_logits)


def test_a_half_precision_checkpoint_is_half_the_size_and_nearly_the_same(make_tiny, tmp_path):
    model = make_tiny(3)
    for name, half in (("full", False), ("half", True)):
        save_model(model, tmp_path / name, half=half)
    assert (tmp_path / "half").stat().st_size < 0.52 * (tmp_path / "full").stat().st_size
    loaded = load_model(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    a, b = (m(images(64, 96), stack_prompts([ONE], [0])).activation.density for m in (model, loaded))
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-5)


def test_a_model_keeps_nothing_between_calls(tiny_model):
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    first = tiny_model(images(64, 96), stack_prompts([ONE], [0])).pred_boxes
    tiny_model(images(32, 32, seed=5), stack_prompts([MIXED], [0]))
    assert torch.equal(tiny_model(images(64, 96), stack_prompts([ONE], [0])).pred_boxes, first)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.state_dict().items())


# Pixels, not fractions of an image


def test_a_rotation_is_by_turns_per_wavelength():
    # 4 px per turn: 1 px is a quarter turn, (1, 0) -> (0, 1) in the pair of x; d = 4 holds x's and y's pair as (x1, y1, x2, y2)
    x = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    got = rotate(x, torch.tensor([[[1.0, 2.0]]]), torch.tensor([4.0]))
    torch.testing.assert_close(got.flatten(), torch.tensor([0.0, -1.0, 1.0, 0.0]))  # y: half a turn, (1, 0) -> (-1, 0)


@pytest.mark.parametrize("shift", [[32.0, 0.0], [-7.5, 900.0]])
def test_products_of_rotated_vectors_depend_on_the_difference_of_positions(shift):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, 5, 8, generator=generator, dtype=torch.float64)
    pos_q, pos_k = 100 * torch.rand(2, 1, 5, 2, generator=generator)
    wavelengths = torch.tensor([8.0, 64.0])
    here = rotate(q, pos_q, wavelengths) @ rotate(k, pos_k, wavelengths).mT
    there = rotate(q, pos_q + torch.tensor(shift), wavelengths) @ rotate(k, pos_k + torch.tensor(shift), wavelengths).mT
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)
    moved = rotate(q, pos_q + torch.tensor(shift), wavelengths) @ rotate(k, pos_k, wavelengths).mT
    assert (moved - here).abs().max() > 0.1


def test_attention_does_not_see_where_in_the_image_it_is():
    torch.manual_seed(0)
    attention = RotaryAttention(32, 2, wavelengths=(64.0, 512.0))
    x, memory, pos, memory_pos = torch.randn(1, 4, 32), torch.randn(1, 9, 32), 90 * torch.rand(1, 4, 2), 90 * torch.rand(1, 9, 2)
    shift = torch.tensor([32.0, 640.0])
    here, there = attention(x, pos, memory, memory_pos), attention(x, pos + shift, memory, memory_pos + shift)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


def test_context_is_the_same_at_any_place_of_a_larger_canvas():
    torch.manual_seed(0)
    layer, content = ContextLayer(32, 2), torch.randn(2, 3, 32)
    results = []
    for (height, width), (top, left) in [((2, 3), (0, 0)), ((4, 6), (0, 0)), ((4, 6), (1, 2)), ((30, 40), (27, 30))]:
        tokens, keep = torch.randn(height, width, 32), torch.zeros(height, width, dtype=torch.bool)
        tokens[top : top + 2, left : left + 3], keep[top : top + 2, left : left + 3] = content, True
        pos = cell_centres(height, width, 32, torch.device("cpu")).flatten(0, 1)[None]
        out = layer(tokens.flatten(0, 1)[None], pos, keep.flatten()[None, None]).unflatten(1, (height, width))
        results.append(out[0, top : top + 2, left : left + 3])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)


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


def test_a_model_without_a_box_reader_has_none_of_its_weights(tiny_config):
    model = build_model(replace(tiny_config, edge_dim=0)).eval()
    assert not [name for name, p in model.named_parameters() if "reader" in name or p.numel() and "edge" in name]
    assert model(images(64, 64), stack_prompts([ONE], [0])).pred_boxes.shape[0] == 1


def test_noisy_boxes_are_corrected_and_unseen_by_the_queries(tiny_model):
    noisy = torch.tensor([[[20.0, 20.0, 8.0, 8.0], [40.0, 30.0, 6.0, 9.0]], [[10.0, 50.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]]])
    features, prompts = tiny_model.encode(images(64, 64, batch=2)), stack_prompts([ONE, ONE], [0, 1])
    without, with_noise = tiny_model.detect(features, prompts), tiny_model.detect(features, prompts, noisy=noisy)
    torch.testing.assert_close(with_noise.pred_boxes, without.pred_boxes)
    torch.testing.assert_close(with_noise.pred_logits, without.pred_logits)
    assert [d.shape for d in with_noise.denoised] == [(2, 2, 4)] * tiny_model.config.decoder_layers
    assert all(d.shape == (2, 0, 4) for d in without.denoised)
    moved = tiny_model.detect(features, prompts, noisy=noisy + torch.tensor([0.0, 0.0, 3.0, 0.0]) * (noisy > 0))
    assert (moved.denoised[-1] - with_noise.denoised[-1])[0].abs().max() > 1


def test_a_decoder_layer_moves_its_boxes_along_with_the_queries(tiny_config):
    torch.manual_seed(0)
    layer = DecoderLayer(tiny_config)
    torch.nn.init.normal_(layer.box[-1].weight, std=0.1)
    x, reference = torch.randn(1, 5, 32), torch.cat([40 + 32 * torch.rand(1, 5, 2), 4 + 8 * torch.rand(1, 5, 2)], -1)
    flat = torch.ones(1, 1360, 32), torch.ones(1, 1344, tiny_config.edge_dim)
    world = (torch.ones(1, 1, 5, dtype=torch.bool), *flat, torch.ones(1, 32, 32), torch.tensor([0]))
    _, here, scores = layer(x, reference, *world)
    shift = torch.tensor([20.0, 12.0, 0.0, 0.0])
    _, there, same = layer(x, reference + shift, *world)
    torch.testing.assert_close(there - shift, here, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same, scores, rtol=1e-4, atol=1e-4)


def test_refining_is_relative_to_the_box_and_bounded():
    small, large = torch.tensor([10.0, 10.0, 2.0, 4.0]), torch.tensor([10.0, 10.0, 20.0, 40.0])
    delta = torch.tensor([0.5, -0.5, 0.0, 0.0])
    assert refine(small, delta).tolist() == [11, 8, 2, 4] and refine(large, delta).tolist() == [20, -10, 20, 40]
    wild = refine(small, torch.tensor([9.0, -9.0, 9.0, -9.0]))  # moves end at two sizes, scales at exp(2); no side under 0.5 px
    torch.testing.assert_close(wild, torch.tensor([14.0, 2.0, 2 * 7.389056, 4 / 7.389056]), rtol=1e-5, atol=1e-5)
    assert refine(torch.tensor([1.0, 1.0, 0.6, 4000.0]), torch.tensor([0, 0, -2.0, 2.0]))[2:].tolist() == [0.5, 4096]


TRAINED = pytest.mark.skipif(not DEFAULT_CHECKPOINT.is_file(), reason=f"needs {DEFAULT_CHECKPOINT.relative_to(PROJECT_ROOT)}")


@TRAINED
@pytest.mark.usefixtures("float32_cpu")
@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_has_the_same_box_in_a_crop_a_large_image_a_strip_and_beside_padding(shape):
    """At least 96 px from any border, four objects are found everywhere, each box within half a pixel."""
    shift = box_shift(load_model(DEFAULT_CHECKPOINT), shape)
    assert shift is not None and shift <= LARGEST_SHIFT == 0.5


def test_large_objects_get_queries_from_the_coarse_map(make_tiny):
    """A peak on the stride-16 map alone: queries start there, with the boxes of its cells; none without cross-scale queries."""
    model = make_tiny()
    with torch.no_grad():
        model.activate.heads.weight[0], model.activate.heads.bias[0] = 0, -15
        model.activate_large.heads.weight[0], model.activate_large.heads.bias[0] = 0, 5
        out = model(images(64, 96), stack_prompts([ONE], [0]))
    starts = out.reference_points[out.valid]
    assert (starts[:, None] == out.large.boxes.reshape(1, -1, 4)).all(-1).any(0).all()  # all 24 cells of a plain are peaks
    with torch.no_grad():
        plain = make_tiny(config=replace(model.config, cross_scale=False))(images(64, 96), stack_prompts([ONE], [0]))
    assert plain.large is None and plain.count.item() == pytest.approx(plain.activation.density.sum().item())
