"""`dealkit.model.queries`: what a map says at a point, and how many queries start where."""

import torch
from conftest import seeded

from dealkit.config import ModelConfig
from dealkit.model.queries import allocate_queries, local_peaks, of_image, sample_map


def test_sampling_beyond_the_map_reads_its_border():
    feature = torch.tensor([[[[1.0, 3.0]]]])  # cell centres at x = 2 and 6
    got = sample_map(feature, torch.tensor([[[-50.0, 2.0], [3.0, 2.0], [50.0, 50.0]]]), 4)
    assert got.flatten().tolist() == [1.0, 1.5, 3.0]  # a quarter of the way: 1 + 0.25 x 2


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
