"""`dealkit.studies.margins`: one factor per kind and image, on a tiny model."""

import numpy as np
import pytest

from dealkit.files import read_json
from dealkit.studies.margins import MARGINS, compare_margins, with_margins


def test_all_boxes_of_a_kind_in_an_image_keep_their_centres_and_share_one_factor_per_axis():
    boxes = [(1, 1, [40, 40, 10, 8]), (1, 1, [70, 20, 20, 4]), (1, 2, [20, 20, 10, 10]), (2, 1, [50, 50, 10, 8])]
    rows = [{"id": n, "image_id": image, "category_id": kind, "bbox": box} for n, (image, kind, box) in enumerate(boxes)]
    made = with_margins({"images": [{"id": i, "width": 200, "height": 100} for i in (1, 2)], "annotations": rows}, 0.7, 1.5)
    before, after = (np.array([ann["bbox"] for ann in anns]) for anns in (rows, made["annotations"]))
    factors = after[:, 2:] / before[:, 2:]
    np.testing.assert_allclose(after[:, :2] + after[:, 2:] / 2, before[:, :2] + before[:, 2:] / 2)
    np.testing.assert_allclose(factors[0], factors[1])
    assert len(np.unique(factors.round(6))) == 6 and factors.min() >= 0.7 and factors.max() <= 1.5
    assert [ann["bbox"] for ann in rows] == [box for *_, box in boxes]  # what was given stays


def test_margins_are_compared_for_every_share(checkpoint, make_sources, tmp_path):
    root = make_sources(bolts=[[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0)]] * 3)
    results = compare_margins(checkpoint, [root / "bolts/val.json"], tmp_path / "margins.json", images=2, followed=(0.0, 1.0))
    assert [(row["margins"], row["follow"]) for row in results["rows"]] == [(name, share) for name in MARGINS for share in (0, 1)]
    assert all(0 <= row["ap25"] <= 1 and row["ap75"] <= row["ap50"] <= row["ap25"] for row in results["rows"])
    assert read_json(tmp_path / "margins.json")["rows"] == results["rows"]
    with pytest.raises(ValueError, match="nothing.json"):
        compare_margins(checkpoint, [root / "nothing.json"], tmp_path / "other.json", images=2)
