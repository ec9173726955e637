"""`dealkit.data.tinyset.duplicates`: hashes, pairs of near ones, and what is left of copies."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dealkit.data.tinyset.duplicates import find_copies, hamming, near_pairs, perceptual_hash, same_objects


def picture(seed, size=(160, 120)):
    """A smooth random picture (width, height) as (H, W, 3) uint8."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1)))


def as_jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_a_copy_is_near_whatever_its_size_and_compression_and_another_picture_is_far():
    pixels = picture(0)
    own = perceptual_hash(pixels)
    for copy in (as_jpeg(pixels, 50), picture(0, (80, 60)), np.clip(pixels * 0.8 + 20, 0, 255).astype(np.uint8)):
        assert hamming(own, perceptual_hash(copy)) <= 20
    assert all(hamming(own, perceptual_hash(picture(seed))) > 60 for seed in range(1, 6))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (50, 50, 3)])
def test_an_image_of_one_colour_has_no_hash(shape):
    assert perceptual_hash(np.full(shape, 77, np.uint8)) is None


@pytest.mark.parametrize("distance", [0, 3, 20])
def test_near_pairs_are_those_that_comparing_all_with_all_finds(distance):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (60, 4), dtype=np.uint64)
    copies = hashes[:30].copy()
    for i in range(30):  # copy i differs from image i in i different bits
        for bit in rng.permutation(256)[:i]:
            copies[i, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    hashes = np.concatenate([hashes, copies])
    far = hamming(hashes[:, None], hashes[None])
    expected = np.argwhere(np.triu(far <= distance, 1))
    assert np.array_equal(near_pairs(hashes, distance), expected)
    assert [i for i, _ in expected] == list(range(distance + 1))


def test_no_image_and_one_image_have_no_pairs():
    assert near_pairs(np.zeros((0, 4), np.uint64), 20).shape == (0, 2)
    assert near_pairs(np.zeros((1, 4), np.uint64), 20).shape == (0, 2)
    with pytest.raises(ValueError, match="distance: expected 0 to 255"):
        near_pairs(np.zeros((1, 4), np.uint64), 256)


def test_the_same_objects_are_those_in_the_same_places():
    boxes = np.array([[0.1 * i, 0.1, 0.1 * i + 0.05, 0.15] for i in range(10)])
    one_away = boxes.copy()
    one_away[0] += 0.5  # nine of ten are still there
    two_away = one_away.copy()
    two_away[1] += 0.5
    assert same_objects(boxes, boxes) and same_objects(boxes, one_away) and not same_objects(boxes, two_away)
    assert same_objects(boxes[:0], boxes[:0]) and not same_objects(boxes, boxes[:0])


def test_of_copies_the_first_in_order_stays():
    pairs = np.array([[0, 1], [1, 2], [3, 4]])
    assert find_copies(np.arange(5), pairs) == {1: 0, 4: 3}  # 2 is a copy of 1 only, which is not kept
    assert find_copies(np.array([1, 0, 2, 4, 3]), pairs) == {0: 1, 2: 1, 3: 4}
    assert find_copies(np.arange(5), np.zeros((0, 2), np.int64)) == {}
