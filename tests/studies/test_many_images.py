"""`dealkit.studies.many_images`: everything is handed out and found, and every figure of the page is there."""

import pytest

from dealkit.report.tables import many_sentence
from dealkit.studies.many_images import run_many


@pytest.mark.slow
def test_the_figures_of_very_many_images_are_those_of_the_page(checkpoint):
    pytest.importorskip("ray", reason="needs Ray: pip install -e .[ray]")
    figures = run_many(checkpoint, images=40, names=300)
    assert all(rate > 0 for rate in figures["images_per_s"].values()) and figures["cpu_s_per_image"] > 0
    assert [row["names"] for row in figures["names"]] == [30, 300] and figures["names"][1]["bytes"] > 300 * 100
    assert "100 million tiles" in many_sentence(figures)
