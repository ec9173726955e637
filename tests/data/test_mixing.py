"""`dealkit.data.mixing`: mosaics keep kinds apart, and pasted things cover nothing; distractors get no boxes,
pasted kinds do."""

from dataclasses import replace

import pytest
import torch
from conftest import noise, sample_of, seeded

from dealkit.data.mixing import APART, mosaic, paste_distractors, paste_kinds


def test_a_mosaic_moves_boxes_with_their_crops_and_keeps_kinds_of_sources_apart():
    """Four crops of 16 px, row by row; the third is empty, the last of the second's source."""
    boxes, labels = [[[1, 2, 3, 4]], [[1, 2, 3, 4]], [], [[5, 6, 9, 8], [0, 0, 16, 16]]], [[0], [0], [], [1, 0]]
    crops = [sample_of(b, labels=lb, image=noise(16, 16, k)) for k, (b, lb) in enumerate(zip(boxes, labels, strict=True))]
    crops = [replace(crop, source=source) for crop, source in zip(crops, "abcb", strict=True)]
    crops[3] = replace(crops[3], crowd=torch.tensor([False, True]))
    made = mosaic(crops)
    assert made.boxes.tolist() == [[1, 2, 3, 4], [17, 2, 19, 4], [21, 22, 25, 24], [16, 16, 32, 32]]
    assert made.labels.tolist() == [0, APART, APART + 1, APART] and made.crowd.tolist() == [False] * 3 + [True]
    assert made.image.shape == (3, 32, 32) and made.source == "mosaic" and made.annotation_ids.tolist() == [1, 1, 1, 2]
    for k, (top, left) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
        assert torch.equal(made.image[:, top : top + 16, left : left + 16], crops[k].image)
    with pytest.raises(ValueError, match="mosaic: expected 4 crops, got 3"):
        mosaic(crops[:3])


@pytest.mark.parametrize("seed", range(5))
def test_distractors_lie_beside_the_objects_and_have_their_size(seed):
    """A grey image with an object of 10 x 10 px; what is pasted is white, and 6.5 to 26 px wide (half to twice, times 1.3)."""
    sample = sample_of([[20, 20, 30, 30]], size_hw=(64, 64))
    white = sample_of([[8, 8, 16, 16]], image=torch.full((3, 24, 24), 255, dtype=torch.uint8))
    before = sample.image.clone()
    made = paste_distractors(sample, white, generator=seeded(seed), most=1)
    assert torch.equal(sample.image, before) and made.boxes is sample.boxes and made.labels is sample.labels
    assert torch.equal(made.image[:, 20:30, 20:30], before[:, 20:30, 20:30])
    changed = (made.image != before).any(0).nonzero()
    extent = (changed.amax(0) - changed.amin(0) + 1).tolist()
    assert all(3 <= side <= 26 for side in extent) and made.image.amax() > 200


def test_nothing_is_pasted_from_a_donor_without_objects_or_where_there_is_no_room():
    sample, donor = sample_of([[20, 20, 30, 30]], size_hw=(64, 64)), sample_of([[8, 8, 16, 16]], image=noise(24, 24))
    assert paste_distractors(sample, replace(donor, crowd=torch.tensor([True])), generator=seeded()) is sample
    assert paste_distractors(sample, sample_of([]), generator=seeded()) is sample
    full = sample_of([[0, 0, 64, 64]], size_hw=(64, 64))
    assert torch.equal(paste_distractors(full, donor, generator=seeded()).image, full.image)
    bare = sample_of([], size_hw=(64, 64))  # without objects that say how large, as large as 24 px
    assert not torch.equal(paste_distractors(bare, donor, generator=seeded()).image, bare.image)


@pytest.mark.parametrize("seed", range(8))
def test_pasted_kinds_fill_their_boxes_and_cover_nothing(seed):
    """White pieces on black ground, of which no colour changes what is white: every box ends where its copy does."""
    black = torch.zeros(3, 96, 96, dtype=torch.uint8)
    sample = sample_of([[40, 40, 60, 60]], image=black)
    made = paste_kinds(sample, sample_of([], image=black + 255), generator=seeded(seed))
    assert torch.equal(sample.image, black) and not made.image[:, 40:60, 40:60].any()
    assert made.boxes[0].tolist() == [40, 40, 60, 60] and len(made.boxes) == len(made.labels) == len(made.crowd) > 1
    kinds = made.labels[1:].unique()
    assert 1 <= len(kinds) <= 2 and kinds.amin() >= 10**6 and made.annotation_ids[1:].eq(-1).all() and not made.crowd[1:].any()
    for x1, y1, x2, y2 in made.boxes[1:].long().tolist():
        shown = made.image[:, y1:y2, x1:x2].amax(0) > 25  # a soft edge of half a pixel is not half as bright
        for side in (shown[0], shown[-1], shown[:, 0], shown[:, -1]):
            assert side.any()
        around = made.image[:, max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2].amax(0).float().sum()
        assert around <= 2.5 * made.image[:, y1:y2, x1:x2].amax(0).float().sum()  # outside it, soft edges alone


def test_where_there_is_no_room_no_kind_is_pasted():
    full = sample_of([[0, 0, 64, 64]], size_hw=(64, 64))
    made = paste_kinds(full, sample_of([], image=noise(64, 64)), generator=seeded())
    assert torch.equal(made.image, full.image) and len(made.boxes) == 1
