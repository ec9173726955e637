"""`dealkit.studies.speed`: what is timed, and beside what."""

import pytest

from dealkit.studies.speed import milliseconds


def test_timing_takes_the_median_of_turns():
    turns = []
    times = milliseconds({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 3)
    assert turns == ["a", "a", "b", "b"] + ["a", "b"] * 3 and min(times.values()) >= 0


def test_the_compared_detector_is_rtdetr_r18():
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    from dealkit.studies.speed import rtdetr_r18

    assert sum(p.numel() for p in rtdetr_r18().parameters()) / 1e6 == pytest.approx(20.1, abs=0.1)  # published: 20 M
