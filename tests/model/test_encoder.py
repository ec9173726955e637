"""`dealkit.model.encoder`: attention that knows distances in pixels, not places."""

import pytest
import torch
from conftest import seeded

from dealkit.model.encoder import ContextLayer, RotaryAttention, cell_centres, rotate


def test_a_rotation_is_by_turns_per_wavelength():
    # 4 px per turn: 1 px is a quarter turn, (1, 0) -> (0, 1) in the pair of x; d = 4 holds x's and y's pair as (x1, y1, x2, y2)
    x = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    got = rotate(x, torch.tensor([[[1.0, 2.0]]]), torch.tensor([4.0]))
    torch.testing.assert_close(got.flatten(), torch.tensor([0.0, -1.0, 1.0, 0.0]))  # y: half a turn, (1, 0) -> (-1, 0)


@pytest.mark.parametrize("shift", [[32.0, 0.0], [-7.5, 900.0]])
def test_products_of_rotated_vectors_depend_on_the_difference_of_positions(shift):
    generator = seeded()
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
