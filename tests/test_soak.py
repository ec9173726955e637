"""Long runs: memory stays flat, and the last answers are those of the first time."""

import random
import threading

import numpy as np
import pytest
from PIL import Image

from dealkit.predict.folder import FolderPrompt, predict_folder
from dealkit.predict.predictor import Predictor

psutil = pytest.importorskip("psutil")
pytestmark = [pytest.mark.slow, pytest.mark.long]

ALLOWED = 50
"""Megabytes that memory may grow by after the first tenth of a run."""


def memory():
    """Megabytes that this process holds."""
    return psutil.Process().memory_info().rss / 1e6


class Peak(threading.Thread):
    """The most that this process holds from its start to `end`."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.over = 0.0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.1):
            self.most = max(self.most, memory())

    def end(self):
        self.over.set()
        self.join()
        return self.most


@pytest.fixture
def photos(tmp_path):
    """2,000 pictures of discs on noise, 96 to 160 px a side."""
    rng, folder = np.random.default_rng(1), tmp_path / "photos"
    folder.mkdir()
    for n in range(2000):
        height, width = rng.integers(96, 161, 2)
        pixels = rng.integers(60, 100, (height, width, 3), dtype=np.uint8)
        y, x = np.mgrid[:height, :width]
        for cx, cy in [(20, 30), *rng.integers(8, [width - 8, height - 8], (6, 2))]:
            pixels[(x - cx) ** 2 + (y - cy) ** 2 < 20] = (230, 180, 60)
        Image.fromarray(pixels).save(folder / f"{n:05d}.png")
    return folder


def test_two_thousand_images_of_a_folder(photos, tmp_path):
    prompt = FolderPrompt(of=photos / "00000.png", points=((20.0, 30.0),))
    names = sorted(path.name for path in photos.iterdir())
    first = predict_folder(photos, tmp_path / "first", prompt, images=names[:200])
    before, peak = memory(), Peak()
    every = predict_folder(photos, tmp_path / "every", prompt, images=names)
    most = peak.end()
    again = predict_folder(photos, tmp_path / "again", prompt, images=names[:200])
    print(f"2000 images: {before:.0f} MB after the first 200, at most {most:.0f}, now {memory():.0f}")
    assert first.found == every.found[:200] == again.found and len(every.found) == 2000
    assert sum(len(each.scores) for each in first.found) > 200
    assert most - before < ALLOWED


def test_five_hundred_clicks_in_one_predictor(photos):
    predictor, rng, answers = Predictor(), random.Random(0), []
    places = [(20.0, 30.0)] + [(rng.uniform(4, 90), rng.uniform(4, 90)) for _ in range(49)]
    for n in range(500):
        if n == 50:
            before, peak = memory(), Peak()
        if n % 50 == 0:
            predictor.set_image(photos / "00000.png")
        answers.append(predictor.click(*places[n % 50]).to_dict())
    most = peak.end()
    print(f"500 clicks: {before:.0f} MB after the first 50, at most {most:.0f}, now {memory():.0f}")
    assert answers[:50] == answers[-50:] and answers[0]["scores"]
    assert most - before < ALLOWED
