"""`dealkit.model.deal`: shapes, batches, prompts, queries, gradients; no box depends on the sets and images beside its own."""

from dataclasses import replace

import pytest
import torch
from conftest import ONE_CLICK, normal, target_of

from dealkit.config import BACKBONES, MODELS, LossConfig
from dealkit.model.deal import LARGEST, build_model, decode_in_groups, read_wider
from dealkit.model.encoder import PLAIN, STRIDES, plain_stages
from dealkit.model.loss import criterion
from dealkit.prompts import stack_prompts

THREE = (torch.tensor([[40.0, 30.0], [8.0, 50.0], [60.0, 12.0]]), torch.tensor([1, 1, 1]))
MIXED = (torch.tensor([[40.0, 30.0], [8.0, 50.0]]), torch.tensor([1, 0]))
CLICKED = stack_prompts([ONE_CLICK], [0])


def with_density(model, per_cell):
    """Sets the density of every cell: softplus(bias) with the weights at zero."""
    model.requires_grad_(False)
    model.activate.heads.weight[1], model.activate.heads.bias[1] = 0, torch.tensor(per_cell).expm1().log()
    model.activate_large.heads.weight[1], model.activate_large.heads.bias[1] = 0, -30
    return model


# Shapes


@pytest.mark.parametrize("size_hw", [(32, 32), (64, 96), (160, 32), (96, 128)])
def test_maps_have_the_strides_of_the_image_at_any_multiple_of_32(tiny_model, tiny_config, size_hw):
    features = tiny_model.encode(normal(2, 3, *size_hw))
    widths = [tiny_config.fine_dim] + 3 * [tiny_config.hidden_dim]
    sizes = [(size_hw[0] // s, size_hw[1] // s) for s in STRIDES]
    assert [m.shape for m in features.maps] == [(2, c, *hw) for c, hw in zip(widths, sizes, strict=True)]
    assert features.values.shape == (2, sum(h * w for h, w in sizes), tiny_config.hidden_dim)
    assert [k.shape for k in features.keep] == [(2, *sizes[0]), (2, *sizes[2]), (2, *sizes[3])]


@pytest.mark.parametrize("size_hw", [(64, 100), (33, 64)])
def test_a_size_that_is_no_multiple_of_32_is_refused(tiny_model, size_hw):
    with pytest.raises(ValueError, match="images: .* got {} x {}".format(*size_hw)):
        tiny_model.encode(normal(1, 3, *size_hw))


@pytest.mark.parametrize(
    ("sets", "index"), [([], []), ([ONE_CLICK], [1]), ([ONE_CLICK, THREE, MIXED], [1, 0, 1])], ids=["none", "one", "three"]
)
def test_outputs_have_one_row_per_prompt_set(tiny_model, sets, index):
    out = tiny_model(normal(2, 3, 64, 96), stack_prompts(sets, index))
    n, k = out.valid.shape
    assert n == len(sets) == len(out.count)
    assert out.pred_logits.shape == (n, k) and out.pred_boxes.shape == out.reference_points.shape == (n, k, 4)
    assert out.activation.density.shape == out.activation.peak_logits.shape == (n, 16, 24)
    assert out.activation.boxes.shape == (n, 16, 24, 4)
    assert [(b.shape, s.shape) for b, s in out.aux_outputs] == [((n, k, 4), (n, k))]  # two layers: one before the last
    assert all(t.dtype == torch.float32 for t in (out.pred_logits, out.pred_boxes, out.count))


def test_a_prompt_reads_its_own_image(tiny_model):
    batch = normal(2, 3, 64, 64)
    out = tiny_model(batch, stack_prompts([ONE_CLICK], [1]))
    alone = tiny_model(batch[1:], CLICKED)
    torch.testing.assert_close(out.pred_boxes, alone.pred_boxes, rtol=1e-4, atol=1e-3)
    other = tiny_model(batch, CLICKED)
    assert (out.activation.peak_logits - other.activation.peak_logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_maps_of_strides_4_to_32_to_the_whole_model(name, tiny_config):
    model = build_model(replace(tiny_config, backbone=name, decoder_layers=1)).eval().requires_grad_(False)
    maps, out = model.backbone(normal(1, 3, 64, 96)), model(normal(1, 3, 64, 64), CLICKED)
    sizes = zip(model.backbone.channels, STRIDES, strict=True)
    assert [m.shape for m in maps] == [(1, c, 64 // s, 96 // s) for c, s in sizes]
    assert torch.isfinite(out.pred_boxes).all() and torch.isfinite(out.pred_logits).all()


def test_the_published_models_are_as_small_as_said():
    models = {name: build_model(replace(config, pretrained=False)) for name, config in MODELS.items()}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert counts["nano"] <= 10_000_000 and counts["small"] <= 20_000_000
    assert round(sum(p.numel() for stage in plain_stages(PLAIN["nano"]) for p in stage.parameters()) / 1e6, 1) == 5.0


# Batches


def test_prompt_sets_in_a_batch_equal_one_by_one(tiny_model):
    features = tiny_model.encode(normal(2, 3, 64, 96))
    sets, index = [ONE_CLICK, THREE, MIXED, ONE_CLICK], [1, 0, 1, 1]
    sizes = [torch.zeros(1, 2), torch.tensor([[9.0, 5.0], [0.0, 0.0], [7.0, 7.0]]), torch.zeros(2, 2), torch.tensor([[6.0, 8.0]])]
    together = tiny_model.detect(features, stack_prompts(sets, index, sizes))
    for n, (of_set, image) in enumerate(zip(sets, index, strict=True)):
        alone = tiny_model.detect(features, stack_prompts([of_set], [image], [sizes[n]]))
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
    batch = normal(2, 3, 96, 64)
    batch[1, :, 50:], batch[1, :, :, 40:] = 0, 0
    sizes = [(96, 64), (50, 40)]
    together = tiny_model.encode(batch, sizes)
    for b, size in enumerate(sizes):
        alone = tiny_model.encode(batch[b : b + 1], [size])
        for got, expected in zip([*together.maps, together.values], [*alone.maps, alone.values], strict=True):
            torch.testing.assert_close(got[b], expected[0], rtol=1e-4, atol=1e-4)


def test_nothing_is_counted_or_started_on_padding(tiny_model):
    out = tiny_model(normal(1, 3, 64, 96), CLICKED, [(64, 50)])
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


@pytest.mark.parametrize("size", [(1, 1), (1, 40)])
def test_an_image_smaller_than_a_coarse_cell_still_has_a_token(tiny_model, size):
    out = tiny_model(normal(1, 3, 32, 64), stack_prompts([(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))], [0]), [size])
    assert torch.isfinite(out.pred_boxes).all() and torch.isfinite(out.pred_logits).all()


# Prompts


def test_the_order_of_the_points_changes_nothing(tiny_model):
    features, (points, labels) = tiny_model.encode(normal(1, 3, 64, 96)), THREE
    order = torch.tensor([2, 0, 1])
    out = tiny_model.detect(features, stack_prompts([(points, labels)], [0]))
    turned = tiny_model.detect(features, stack_prompts([(points[order], labels)], [0]))
    torch.testing.assert_close(turned.activation.density, out.activation.density)
    own = torch.cat([order, order + 3, order + 6])  # every click starts three queries
    torch.testing.assert_close(turned.pred_boxes[:, :9], out.pred_boxes[:, own], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(turned.pred_logits[:, 9:], out.pred_logits[:, 9:], rtol=1e-4, atol=1e-4)


def test_a_click_starts_a_query_of_every_size(make_tiny, tiny_config):
    prompts = stack_prompts([THREE, ONE_CLICK], [0, 0])
    model = make_tiny()
    out = model(normal(1, 3, 64, 96), prompts)
    assert out.starts == 3 and out.valid[:, :9].tolist() == [[True] * 9, [True, False, False] * 3]
    first = out.reference_points[:, :9].unflatten(1, (3, 3))  # size, click
    torch.testing.assert_close(first[:, 1:, :, :2], first[:, :1, :, :2].expand(2, 2, 3, 2))  # on one centre
    for k, size in enumerate((1.0, 0.6, 1.6)):
        torch.testing.assert_close(first[:, k, :, 2:], size * first[:, 0, :, 2:])
    single = build_model(replace(tiny_config, click_sizes=(1.0,))).eval()
    single.load_state_dict(model.state_dict())
    out = single(normal(1, 3, 64, 96), prompts)
    assert out.valid[:, :3].tolist() == [[True] * 3, [True, False, False]]
    torch.testing.assert_close(out.reference_points[:, :3], first[:, 0])


def test_more_points_and_negative_points_change_the_answer(tiny_model):
    sets = [(THREE[0][: len(labels)], torch.tensor(labels)) for labels in ([1], [1, 1], [1, 0])]
    out = tiny_model(normal(1, 3, 64, 96), stack_prompts(sets, [0, 0, 0]))
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert (out.activation.peak_logits[a] - out.activation.peak_logits[b]).abs().max() > 1e-4
    assert (out.pred_logits[0, 0] - out.pred_logits[2, 0]).abs() > 1e-5


def test_a_negative_point_has_an_embedding_of_its_own_and_none_is_zero(tiny_model):
    features = tiny_model.encode(normal(1, 3, 64, 96))
    embedding = tiny_model.embed(features, stack_prompts([ONE_CLICK, MIXED], [0, 0]))
    assert embedding.shape == (2, 2, tiny_model.embedding_dim)
    assert (embedding[0, 1] == 0).all() and embedding[1, 1].abs().max() > 0
    alone = tiny_model.embed(features, stack_prompts([(MIXED[0][:1], torch.tensor([1]))], [0]))
    torch.testing.assert_close(embedding[1, 0], alone[0, 0], rtol=1e-4, atol=1e-5)  # the negative is not in the positive


def test_a_drawn_box_is_where_its_own_queries_start_and_what_they_answer(make_tiny):
    """The second click of three has a box of 9 x 5 px; its first query starts from what is found there, as without the box."""
    model, sizes = make_tiny(), [torch.tensor([[0.0, 0.0], [9.0, 5.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [9.0, 5.0]])]
    images, drawn = normal(1, 3, 64, 96), torch.tensor([8.0, 50.0, 9.0, 5.0])
    plain = model(images, stack_prompts([THREE, MIXED], [0, 0]))
    out = model(images, stack_prompts([THREE, MIXED], [0, 0], sizes))
    assert (out.reference_points[0, 4:9:3] == drawn).all() and (out.pred_boxes[0, 1:9:3] == drawn).all()
    assert not (out.reference_points[0, 1] == drawn).all()
    others = [0, 2, 3, 5, 6, 8]
    assert not (out.reference_points[0, others] == drawn).all(-1).any()
    assert (out.pred_boxes[0, others] - plain.pred_boxes[0, others]).abs().max() > 1e-4  # for what was drawn is told to all
    torch.testing.assert_close(out.pred_boxes[1], plain.pred_boxes[1])
    in_training = model.train()(images, stack_prompts([THREE, MIXED], [0, 0], sizes))
    assert (in_training.reference_points[0, 1:9:3] == drawn).all()
    assert not (in_training.pred_boxes[0, 1:9:3] == drawn).all(-1).any()  # there it is refined, to be learnt


def test_what_was_drawn_wider_is_a_mean_of_logs_of_at_most_the_largest_factor():
    found = torch.tensor([[[10.0, 10, 8, 8], [40, 10, 8, 8], [70, 70, 20, 10]]]).repeat(3, 1, 1)
    drawn = torch.tensor([[[10.0, 10, 9, 80], [40, 10, 10, 8], [0, 0, 0, 0]]]).repeat(3, 1, 1)
    at_drawn = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    expected = torch.tensor([[(9 / 8 * 10 / 8) ** 0.5, LARGEST**0.5], [9 / 8, LARGEST], [1, 1]])
    torch.testing.assert_close(read_wider(found, drawn, at_drawn).exp(), expected)


def test_a_box_drawn_twice_as_large_makes_all_others_larger_by_the_largest_factor(make_tiny):
    model, images, points = make_tiny(), normal(1, 3, 64, 96), torch.tensor([[30.0, 30.0]])

    asked = [(points, torch.ones(1).long())]
    found = model(images, stack_prompts(asked, [0])).pred_boxes[0, 0, 2:]

    def sizes(follow: float) -> torch.Tensor:
        model.follow = follow
        return model(images, stack_prompts(asked, [0], [2 * found[None]])).pred_boxes[0, 3:, 2:]

    torch.testing.assert_close(sizes(1.0), LARGEST * sizes(0.0))


def test_every_positive_click_starts_a_query_in_its_cell_on_the_border_too(tiny_model):
    corners = (torch.tensor([[0.0, 0.0], [96.0, 64.0], [96.0, 0.0]]), torch.tensor([1, 1, 1]))
    out = tiny_model(normal(1, 3, 64, 96), stack_prompts([MIXED, THREE, corners], [0, 0, 0]))
    assert torch.equal(out.reference_points[2, :3], out.activation.boxes[2, [0, 15, 0], [0, 23, 23]])
    assert out.valid[:, :3].tolist() == [[True, False, False], [True] * 3, [True] * 3]  # a negative and padding start none
    assert (out.pred_logits[0, 1:3] == -20).all()
    for p, (x, y) in enumerate(THREE[0].tolist()):
        expected = out.activation.boxes[1, int(y) // 4, int(x) // 4]
        assert torch.equal(out.reference_points[1, p], expected)


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
    out = with_density(make_tiny(), per_cell)(normal(1, 3, *size_hw), CLICKED)
    assert out.count.item() == pytest.approx(per_cell * size_hw[0] * size_hw[1] / 16, rel=1e-4)
    assert out.valid.sum().item() == expected + 3  # and the click's own


def test_the_number_of_queries_is_not_in_the_checkpoint(make_tiny, tiny_config):
    model = with_density(make_tiny(), 0.25)
    fewer = build_model(replace(tiny_config, min_queries=3, max_queries=10, queries_per_object=2.0)).eval()
    fewer.load_state_dict(model.state_dict())
    out, of_fewer = (m(normal(1, 3, 64, 64), CLICKED) for m in (model, fewer))
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
    ids=str,
)
def test_every_setting_of_the_network_reaches_it(tiny_model, tiny_config, change, differs):
    shapes, other = (
        [(name, tensor.shape) for name, tensor in getattr(model, differs).state_dict().items()]
        for model in (tiny_model, build_model(replace(tiny_config, **change)))
    )
    assert shapes != other


# Weights


def test_every_parameter_has_a_gradient(make_tiny):
    model = make_tiny().train()
    for layer in model.decoder.layers:  # it starts from zero, where what comes before has no gradient
        torch.nn.init.normal_(layer.reader.describe[-1].weight, std=0.1)
        torch.nn.init.normal_(layer.box[-1].weight, std=0.1)
    prompts = stack_prompts([ONE_CLICK, THREE, MIXED], [0, 1, 1], [torch.full((p, 2), 9.0) for p in (1, 3, 2)])
    large = torch.tensor([[[30.0, 30.0, 60.0, 60.0], [40.0, 30.0, 110.0, 60.0]]]).expand(3, 2, 4)  # of strides 8 and 16
    out = model.detect(model.encode(normal(2, 3, 64, 96)), prompts, noisy=large)
    targets = [
        target_of([[20.0, 30.0, 8.0, 8.0], [70.0, 20.0, 5.0, 9.0]], clicked=[0, -1, -1]),
        target_of([[40.0, 30.0, 6.0, 6.0], [8.0, 50.0, 9.0, 9.0]], clicked=[0, 1, -1]),
        target_of([[40.0, 30.0, 6.0, 6.0]], clicked=[0, -1, -1]),
    ]
    sum(criterion(out, targets, LossConfig(), torch.tensor([[0, 1], [0, 1], [0, 0]])).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without, without
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_model_keeps_nothing_between_calls(tiny_model):
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    first = tiny_model(normal(1, 3, 64, 96), CLICKED).pred_boxes
    tiny_model(normal(1, 3, 32, 32, seed=5), stack_prompts([MIXED], [0]))
    assert torch.equal(tiny_model(normal(1, 3, 64, 96), CLICKED).pred_boxes, first)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.state_dict().items())


def test_a_model_without_a_box_reader_has_none_of_its_weights(tiny_config):
    model = build_model(replace(tiny_config, edge_dim=0)).eval()
    assert not [name for name, p in model.named_parameters() if "reader" in name or p.numel() and "edge" in name]
    assert model(normal(1, 3, 64, 64), CLICKED).pred_boxes.shape[0] == 1


def test_noisy_boxes_are_corrected_and_unseen_by_the_queries(tiny_model):
    noisy = torch.tensor([[[20.0, 20.0, 8.0, 8.0], [40.0, 30.0, 6.0, 9.0]], [[10.0, 50.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]]])
    features, prompts = tiny_model.encode(normal(2, 3, 64, 64)), stack_prompts([ONE_CLICK, ONE_CLICK], [0, 1])
    without, with_noise = tiny_model.detect(features, prompts), tiny_model.detect(features, prompts, noisy=noisy)
    torch.testing.assert_close(with_noise.pred_boxes, without.pred_boxes)
    torch.testing.assert_close(with_noise.pred_logits, without.pred_logits)
    assert [d.shape for d in with_noise.denoised] == [(2, 2, 4)] * tiny_model.config.decoder_layers
    assert all(d.shape == (2, 0, 4) for d in without.denoised)
    moved = tiny_model.detect(features, prompts, noisy=noisy + torch.tensor([0.0, 0.0, 3.0, 0.0]) * (noisy > 0))
    assert (moved.denoised[-1] - with_noise.denoised[-1])[0].abs().max() > 1


def test_large_objects_get_queries_from_the_coarse_map(make_tiny):
    """A peak on the stride-16 map alone: queries start there, with the boxes of its cells; none without cross-scale queries."""
    model = make_tiny().requires_grad_(False)
    model.activate.heads.weight[0], model.activate.heads.bias[0] = 0, -15
    model.activate_large.heads.weight[0], model.activate_large.heads.bias[0] = 0, 5
    out = model(normal(1, 3, 64, 96), CLICKED)
    starts = out.reference_points[out.valid]
    assert (starts[:, None] == out.large.boxes.reshape(1, -1, 4)).all(-1).any(0).all()  # all 24 cells of a plain are peaks
    plain = make_tiny(config=replace(model.config, cross_scale=False))(normal(1, 3, 64, 96), CLICKED)
    assert plain.large is None and plain.count.item() == pytest.approx(plain.activation.density.sum().item())
