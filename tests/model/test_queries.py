"""`dealkit.model.queries`: what a map says at a point, what a place is alike to, and how many queries start where."""

import math

import pytest
import torch
from conftest import normal, seeded

from dealkit.config import ModelConfig
from dealkit.model.queries import EXTENT, allocate_queries, contrast_keys, local_peaks, of_image, sample_map, similarity_maps
from dealkit.prompts import stack_prompts


def test_sampling_beyond_the_map_reads_its_border():
    feature = torch.tensor([[[[1.0, 3.0]]]])  # cell centres at x = 2 and 6
    got = sample_map(feature, torch.tensor([[[-50.0, 2.0], [3.0, 2.0], [50.0, 50.0]]]), 4)
    assert got.flatten().tolist() == [1.0, 1.5, 3.0]  # a quarter of the way: 1 + 0.25 x 2


def test_sampling_is_grid_sample_with_its_border():
    feature = normal(2, 3, 5, 7).requires_grad_()
    points = (70 * torch.rand(2, 400, 2, generator=seeded()) - 20).requires_grad_()  # of a map of 28 x 20 px
    grid = (points / torch.tensor([28.0, 20.0]) * 2 - 1)[:, :, None]
    theirs = torch.nn.functional.grid_sample(feature, grid, padding_mode="border", align_corners=False)[..., 0].transpose(1, 2)
    ours = sample_map(feature, points, 4)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
    slopes = (torch.autograd.grad(values.square().sum(), (feature, points)) for values in (ours, theirs))
    for mine, other in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4)


def test_rows_of_an_image_are_shared_where_there_is_one():
    x = torch.arange(4.0).reshape(2, 2)
    assert of_image(x, torch.tensor([1, 0, 1])).tolist() == [[2, 3], [0, 1], [2, 3]]
    one = of_image(x[:1], torch.tensor([0, 0, 0]))
    assert one.shape == (3, 2) and one.data_ptr() == x.data_ptr()


def test_each_prompt_set_has_its_own_number_of_queries(tiny_config):
    peaks = torch.randn(3, 16, 16, generator=seeded())
    cells, valid = allocate_queries(local_peaks(peaks), torch.tensor([0.0, 20.0, 64.0]), tiny_config)
    assert valid.sum(1).tolist() == [24, 42, 100] and cells.shape == (3, 100)
    assert valid[1].tolist() == [True] * 42 + [False] * 58  # padding comes last
    assert all(len(set(row)) == 100 for row in cells.tolist())
    known = torch.tensor([64.0, 3.0, 0.0])  # objects that have queries however low the density
    _, valid = allocate_queries(local_peaks(peaks), torch.tensor([0.0, 64.0, float("nan")]), tiny_config, at_least=known)
    assert valid.sum(1).tolist() == [100, 100, 24]  # a count that is not a number gives the fewest


def test_queries_start_on_peaks_before_their_neighbours():
    peaks = torch.zeros(1, 5, 7)
    peaks[0, 1, 1], peaks[0, 1, 2], peaks[0, 3, 5] = 9.0, 8.0, 1.0  # the 8 belongs to the 9
    cells, _ = allocate_queries(local_peaks(peaks), torch.zeros(1), ModelConfig(min_queries=2, extra_queries=0))
    assert cells.tolist() == [[1 * 7 + 1, 3 * 7 + 5]]


# What a place is alike to


def test_keys_are_what_a_place_has_beyond_the_mean_of_its_image():
    """Cells (1, 0), (3, 0), (2, 3): mean (2, 1), differences (-1, -1), (1, -1), (0, 2). Padding takes no part in the mean."""
    feature, half = torch.tensor([[[[1.0, 3.0, 2.0]], [[0.0, 0.0, 3.0]]]]), 0.5**0.5
    torch.testing.assert_close(contrast_keys(feature, None)[0, :, 0].T, torch.tensor([[-half, -half], [half, -half], [0, 1]]))
    keys = contrast_keys(feature, torch.tensor([[[True, True, False]]]))  # mean (2, 0)
    torch.testing.assert_close(keys[0, :, 0].T, torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert not contrast_keys(torch.ones(1, 2, 2, 2), None).any()  # an even image is like nothing


def test_similarity_is_the_cosine_with_each_stride_on_the_map_of_one():
    keys = [
        torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4).clone(),
        torch.zeros(1, 2, 2, 2),
        torch.ones(1, 2, 1, 1),
    ]
    keys[0][0, :, 1, 2] = torch.tensor([0.0, 1.0])
    keys[1][0, 0] = 0.6
    maps = similarity_maps(keys, torch.tensor([[3.0, 0.0, 5.0, 0.0, 0.0, 0.0]]), 4)
    expected = torch.ones(4, 4)
    expected[1, 2] = 0
    assert torch.equal(maps[0, 0], expected) and maps.shape == (1, 3, 4, 4)
    torch.testing.assert_close(maps[0, 1], torch.full((4, 4), 0.6))
    assert not maps[0, 2].any()  # zero vectors are like nothing
    torch.testing.assert_close(
        similarity_maps(keys, torch.tensor([[3.0, 0, 5, 0, 0, 0]]), 16)[0, :2, 0, 0], torch.tensor([15 / 16, 0.6])
    )


def test_a_place_is_like_itself_and_teaches_the_backbone_nothing(make_tiny):
    model = make_tiny().train()
    features = model.encode(normal(1, 3, 64, 96))
    prompts = stack_prompts([(torch.tensor([[22.0, 30.0]]), torch.tensor([1]))], [0])  # the centre of a cell of stride 4
    vectors = model.embed_points.split(model.embed(features, prompts))[1]
    assert not any(key.requires_grad for key in features.keys)
    maps = similarity_maps(features.keys, vectors[:, 0], 4)[0]
    assert maps[0, 7, 5].item() == pytest.approx(1, abs=1e-4) and maps[0].max() < 1 + 1e-4 and maps[1:, 7, 5].min() > 0.5


# Drawn boxes


def test_a_drawn_box_changes_an_embedding_in_its_extent_only(tiny_model):
    features, clicks = (
        tiny_model.encode(normal(1, 3, 64, 96)),
        (torch.tensor([[20.0, 30], [40, 40], [60, 12]]), torch.tensor([1, 1, 0])),
    )
    sizes = [[[0.0, 0.0]] * 3, [[8.0, 16.0], [0.0, 0.0], [5.0, 5.0]], [[8.0, 16.0], [2.0, 4.0], [0.0, 0.0]]]
    plain, one, two = tiny_model.embed(features, stack_prompts([clicks] * 3, [0] * 3, list(map(torch.tensor, sizes))))
    for drawn in (one, two):
        torch.testing.assert_close(plain[:, :-EXTENT], drawn[:, :-EXTENT])
    assert not torch.stack([plain[0], plain[1], one[1], two[1]])[:, -EXTENT:].any()  # nothing drawn; "not this" has no size
    torch.testing.assert_close(one[0, -EXTENT:], torch.tensor([math.log(8) - 2.77, math.log(16) - 2.77, 1.0, 0, 0]))
    torch.testing.assert_close(
        two[0, -EXTENT:], torch.tensor([math.log(4) - 2.77, math.log(8) - 2.77, 1.0, 0, 0])
    )  # mean of logs
    split = tiny_model.embed_points.split
    mean = torch.stack([plain, one]).mean(0, keepdim=True)
    torch.testing.assert_close(split(mean)[2], split(one[None])[2])  # of several, those that were drawn
    assert split(plain[None])[2].tolist() == [[0.0] * EXTENT]
    assert (split(one[None])[0] - split(plain[None])[0])[0].abs().amax(-1).gt(1e-5).tolist() == [True, False]
