"""Where what was clicked is tiny or large, an image is read again at another scale; answers stay in its own pixels."""

from dataclasses import replace

import pytest
import torch
from conftest import noise, same

from dealkit.predict.detections import Detections, next_scale, reread
from dealkit.predict.embedding import PromptEmbedding, load_embedding, mean_embedding
from dealkit.predict.plain import resized
from dealkit.predict.predictor import Predictor
from dealkit.predict.tiles import predict_large

pytestmark = pytest.mark.usefixtures("float32_cpu")

LARGE_BOX, HALF = [20.0, 20.0, 240.0, 240.0], [10.0, 10.0, 120.0, 120.0]


def clicked(side, scale=1.0):
    boxes = torch.tensor([[0.0, 0.0, side, side], [0.0, 0.0, 300.0, 300.0]])
    return Detections(boxes=boxes, scores=torch.tensor([0.9, 0.8]), clicked=torch.tensor([True, False]), scale=scale)


@pytest.fixture
def readers(tiny_model):
    """A predictor that reads again and one that does not, with an image of 320 px and the same at half of its size."""
    pixels = noise(320, 320)
    again, once = Predictor(tiny_model, threshold=0.0), Predictor(tiny_model, threshold=0.0, rescale=False)
    again.set_image(pixels)
    once.set_image(torch.from_numpy(resized(pixels.numpy(), 0.5).copy()))
    return again, once


@pytest.mark.parametrize(
    ("side", "scale", "size_hw", "expected"),
    [
        (7.9, 1.0, (400, 400), 2.0),
        (8.0, 1.0, (400, 400), None),
        (191.9, 1.0, (400, 400), None),
        (192.0, 1.0, (400, 400), 0.5),
        (384.0, 0.5, (400, 400), 0.25),  # 192 px there
        (383.0, 0.5, (400, 400), None),
        (7.0, 0.5, (400, 400), None),  # never back again
        (200.0, 2.0, (400, 400), None),
        (7.0, 1.0, (1000, 1000), 2.0),  # four million pixels
        (7.0, 1.0, (1001, 1000), None),
    ],
)
def test_the_side_of_what_was_clicked_says_the_scale(side, scale, size_hw, expected):
    assert next_scale(clicked(side, scale), size_hw) == expected


def test_without_a_clicked_object_nothing_is_read_again():
    found = clicked(100.0)
    for nothing in (replace(found, clicked=None), replace(found, clicked=torch.zeros(2, dtype=torch.bool))):
        assert next_scale(nothing, (400, 400)) is None


def test_each_prompt_is_read_until_its_scale_suits():
    """400 px: at a half, where 210 px are seen, and at a quarter; 7 px twice as large; 20 px as it is."""
    asked, sides, sizes = [], {0.5: 210.0, 0.25: 33.0, 2.0: 14.0}, [400.0, 20.0, 7.0]
    sets = [(torch.tensor([[10.0 * n, 4.0]]), torch.tensor([1]), torch.zeros(1, 2)) for n in range(3)]

    def ask(of, scale):
        asked.append(([points[0].tolist() for points, *_ in of], scale))
        return [clicked(side) for side in sizes] if scale == 1 else [clicked(sides[scale]) for _ in of]

    found = reread(ask, sets, (400, 400))
    assert asked[1:] == [([[0.0, 2.0]], 0.5), ([[40.0, 8.0]], 2.0), ([[0.0, 1.0]], 0.25)]
    assert [f.scale for f in found] == [0.25, 1.0, 2.0] and [f.boxes[0, 2].item() for f in found] == [132.0, 20.0, 7.0]
    assert [f.scale for f in reread(ask, sets, (400, 400), False)] == [1.0, 1.0, 1.0]
    assert reread(lambda of, scale: of, [], (400, 400)) == []


def test_a_large_object_is_answered_as_in_the_image_at_half_of_its_size(readers):
    again, once = readers
    found, half = again.predict(boxes=[LARGE_BOX]), once.predict(boxes=[HALF])
    same(found, replace(half, boxes=half.boxes * 2))
    assert found.scale == 0.5 and found.points.tolist() == [[130, 130]] and found.image.shape == (3, 320, 320)
    both = again.predict_categories([([], None, [LARGE_BOX]), ([], None, [[30, 30, 60, 60]])])
    assert [f.scale for f in both] == [0.5, 1.0], "each prompt has a scale of its own"


def test_an_embedding_is_asked_at_the_scale_that_it_was_made_at(readers, tmp_path):
    again, once = readers
    made = again.embed(None, boxes=[LARGE_BOX])
    assert made.scale == 0.5 and again.embed(None, boxes=[[30, 30, 60, 60]]).scale == 1
    torch.testing.assert_close(made.vectors, once.embed(None, boxes=[HALF]).vectors)
    made.save(tmp_path / "kind.safetensors")
    loaded = load_embedding(tmp_path / "kind.safetensors")
    half = once.predict_embedding(replace(loaded, scale=1.0))
    same(again.predict_embedding(loaded), replace(half, boxes=half.boxes * 2))
    assert loaded.scale == 0.5 and mean_embedding([loaded, loaded, replace(loaded, scale=1.0)]).scale == 0.5
    with pytest.raises(ValueError, match=r"^scale: expected over 0 to 2, got 0"):
        PromptEmbedding(vectors=loaded.vectors, clicks=1, model="m", scale=0.0)


def test_an_image_in_tiles_is_read_again_as_a_whole_one(readers):
    again, _ = readers
    prompt = ([], None, [LARGE_BOX])
    same(predict_large(again, again.image, [prompt], tile=512)[0], again.predict_categories([prompt])[0])
    kind = again.embed(None, boxes=[LARGE_BOX])
    same(predict_large(again, again.image, embedding=kind, tile=512)[0], again.predict_embedding(kind))
