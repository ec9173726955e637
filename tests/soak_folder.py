"""Kills and long runs of folder prediction, too slow for the suite: `python tests/soak_folder.py [--images 2000] [--clicks 500]`.

1. A run over 200 images is killed five times at random moments; its files are those of a run in one go.
2. 2,000 images through one run, 500 clicks in one Predictor: memory grows by less than 50 MB after the first tenth, and the last
   answers are those of the first time.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dealkit.files import PROJECT_ROOT
from dealkit.predict.folder import FolderPrompt, predict_folder
from dealkit.predict.predictor import Predictor

ALLOWED = 50
"""Megabytes that memory may grow by after the first tenth of a run."""


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Discs on noise, 64 to 96 px a side."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for n in range(count):
        height, width = rng.integers(64, 97, 2)
        pixels = rng.integers(60, 100, (height, width, 3), dtype=np.uint8)
        y, x = np.mgrid[:height, :width]
        for cx, cy in [(20, 30), *rng.integers(8, [width - 8, height - 8], (6, 2))]:
            pixels[(x - cx) ** 2 + (y - cy) ** 2 < 20] = (230, 180, 60)
        Image.fromarray(pixels).save(folder / f"{n:05d}.png")


def killed_runs(folder: Path, kills: int = 5, seed: int = 0) -> None:
    """Compare a run that is killed with one that is not."""
    write_images(folder / "photos", 200)
    command = [sys.executable, "-m", "dealkit", "predict", "photos", "--of", "00000.png", "--point", "20,30"]
    command += ["--format", "coco", "yolo", "csv", "--out"]
    options = {"cwd": folder, "env": os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, "stdout": subprocess.DEVNULL}
    options["stderr"] = subprocess.DEVNULL
    subprocess.run([*command, "whole"], **options, check=True)
    journal, rng = folder / "killed" / "found.jsonl", random.Random(seed)
    size = (folder / "whole" / "found.jsonl").stat().st_size
    for least in sorted(rng.uniform(0, 0.9) * size for _ in range(kills)):  # bytes, so that it is anywhere in a line
        process = subprocess.Popen([*command, "killed"], **options)
        while process.poll() is None and not (journal.is_file() and journal.stat().st_size > least):
            time.sleep(rng.uniform(0.0005, 0.005))
        process.kill()
        process.wait()
        lines = journal.read_bytes() if journal.is_file() else b""
        whole_line = "whole" if lines.endswith(b"\n") else "cut"
        print(f"exit code {process.returncode}, images {lines.count(b'stamp')}, last line {whole_line}", flush=True)
    subprocess.run([*command, "killed"], **options, check=True)
    first, second = (
        {p.relative_to(folder / n): p.read_bytes() for p in sorted((folder / n).rglob("*")) if p.is_file()}
        for n in ("whole", "killed")
    )
    assert first == second, [str(name) for name in first if first[name] != second.get(name)]
    print(f"{len(first)} files are the same")


def memory() -> float:
    """Megabytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Peak(threading.Thread):
    """The most that this process holds while this runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            self.most = max(self.most, memory())


def soak(folder: Path, images: int, clicks: int) -> None:
    """Memory and answers over many images, then over many clicks."""
    write_images(folder / "many", images, seed=1)
    prompt = FolderPrompt(of=folder / "many" / "00000.png", points=((20.0, 30.0),))
    names = sorted(path.name for path in (folder / "many").iterdir())
    first = predict_folder(folder / "many", folder / "first", prompt, images=names[: images // 10])
    before, peak, started = memory(), Peak(), time.monotonic()
    peak.start()
    every = predict_folder(folder / "many", folder / "every", prompt, images=names)
    seconds = time.monotonic() - started
    peak.over.set()
    again = predict_folder(folder / "many", folder / "again", prompt, images=names[: images // 10])
    assert first.found == every.found[: len(first.found)] == again.found
    held = f"{before:.0f} MB after {images // 10}, at most {peak.most:.0f}, now {memory():.0f}"
    print(f"{images} images in {seconds:.0f} s; memory {held}; the same answers", flush=True)
    assert peak.most - before < ALLOWED

    predictor = Predictor()
    predictor.set_image(folder / "many" / names[0])
    rng, answers = random.Random(0), []
    places = [(20, 30)] + [(rng.uniform(4, 60), rng.uniform(4, 60)) for _ in range(clicks // 10 - 1)]
    for n in range(clicks):
        if n == clicks // 10:
            before = memory()
        if n and n % len(places) == 0:
            predictor.set_image(folder / "many" / names[0])
        answers.append(predictor.click(*places[n % len(places)]).to_dict())
    assert answers[: len(places)] == answers[-len(places) :]
    print(f"{clicks} clicks: memory {before:.0f} MB after {clicks // 10}, now {memory():.0f}; the same answers")
    assert memory() - before < ALLOWED


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--clicks", type=int, default=500)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        killed_runs(Path(place))
        soak(Path(place), chosen.images, chosen.clicks)
