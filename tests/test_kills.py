"""Commands killed at random moments (SIGKILL) and started again: the same results as in one go, nothing lost, no stray file."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace

import killable
import pytest
import torch
from conftest import losses
from PIL import Image
from safetensors.torch import load_file

from dealkit.clicks import make_clicks
from dealkit.config import to_dict
from dealkit.files import read_json, write_json
from dealkit.train.loop import read_log

pytestmark = [pytest.mark.slow, pytest.mark.long]

KILLS = 10


PROCESSES = multiprocessing.get_context("forkserver")  # it imports what a command needs once, not for every kill
PROCESSES.set_forkserver_preload(["killable"])


def command(*args, folder, wait=True):
    """The end of a command, or the process of one that runs."""
    environment = {name: os.environ[name] for name in os.environ if name.startswith("FIFTYONE")}
    process = PROCESSES.Process(target=killable.run, args=([str(arg) for arg in args], folder, environment))
    process.start()
    if not wait:
        return process
    process.join()
    assert process.exitcode == 0, (folder / "said").read_text()[-2000:]


def killed(args, done, total, folder):
    """Kill a command `KILLS` times, each time after a random further part of its work; then let it end.

    Args:
        args: function that gives its arguments, which may change after a kill. done: how much of `total` there is of its work.
    """
    rng, parts = random.Random(0), []
    for least in sorted(rng.uniform(0, 0.9) * total for _ in range(KILLS)):
        process = command(*args(), folder=folder, wait=False)
        while process.is_alive() and done() <= least:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"ended before kill {len(parts) + 1}: {(folder / 'said').read_text()[-2000:]}"
        parts.append(round(100 * done() / total))
    command(*args(), folder=folder)
    print(f"{args()[0]}: {KILLS} kills, with {parts} % of the work done")


def size(file):
    return file.stat().st_size if file.is_file() else 0


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_images(folder, count):
    folder.mkdir(parents=True)
    for n in range(count):
        pixels = torch.randint(60, 100, (64, 72, 3), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
        pixels[20:28, 30:38] = 250
        Image.fromarray(pixels.numpy()).save(folder / f"{n:04d}.png")


def write_source(folder, count):
    """A COCO folder of so many images with an object each; gives its file."""
    write_images(folder / "images", count)
    images = [{"id": n + 1, "file_name": f"{n:04d}.png", "width": 72, "height": 64} for n in range(count)]
    rows = [{"id": n, "image_id": n, "category_id": 1, "bbox": [30, 20, 8, 8]} for n in range(1, count + 1)]
    write_json(folder / "train.json", {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "bolt"}]})
    return folder / "train.json"


def test_training(tiny_run, tmp_path):
    schedule = replace(tiny_run.train, steps=24, checkpoint_every=2)
    data = replace(tiny_run.data, workers=1)
    write_json(tmp_path / "config.json", to_dict(replace(tiny_run, train=schedule, data=data)))
    out = tmp_path / "killed"

    def args():
        return ["train", "--out", "killed", *(["--resume"] if (out / "state.pt").is_file() else ["--config", "config.json"])]

    command("train", "--out", "whole", "--config", "config.json", folder=tmp_path)
    killed(args, lambda: len(read_log(out)), 24, tmp_path)
    whole = tmp_path / "whole"
    assert losses(read_log(out)) == losses(read_log(whole)) and len(read_log(out)) >= 24
    ends = [load_file(folder / "model.safetensors") for folder in (whole, out)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    names = [{path.name for path in folder.iterdir()} - {"tensorboard"} for folder in (whole, out)]
    assert names == [{"config.json", "log.jsonl", "model.safetensors", "state.pt"}] * 2


def test_a_folder(checkpoint, tmp_path):
    write_images(tmp_path / "photos", 100)
    asked = ["predict", "photos", "--of", "0000.png", "--point", "34,24", "--checkpoint", checkpoint, "--threshold", "0.0"]
    asked += ["--format", "coco", "yolo", "csv", "--out"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    command(*asked, "whole", folder=tmp_path)
    total = size(whole / "found.jsonl")
    killed(lambda: [*asked, "killed"], lambda: size(out / "found.jsonl"), total, tmp_path)
    assert content(out) == content(whole) and len(content(out)) > 100


def test_a_data_set(checkpoint, tmp_path):
    coco = write_source(tmp_path / "bolts", 100)
    write_json(tmp_path / "clicks.json", make_clicks(coco, setting="1/category", seed=0))
    asked = ["predict", "--coco", coco, "--clicks", "clicks.json", "--checkpoint", checkpoint, "--out"]
    command(*asked, "whole.json", folder=tmp_path)
    part, total = tmp_path / "killed.part.jsonl", len(json.dumps(read_json(tmp_path / "whole.json")))
    killed(lambda: [*asked, "killed.json"], lambda: size(part), total, tmp_path)
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert {path.name for path in tmp_path.glob("killed*")} == {"killed.json"}


def test_a_build(tmp_path):
    for name in ("one", "other"):
        write_source(tmp_path / "root" / name, 80)
    asked = ["data", "build", "--root", "root", "--tile", "48", "--overlap", "16", "--workers", "2", "--out"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    command(*asked, "whole", folder=tmp_path)

    def files():
        return sum(len(names) for _, _, names in os.walk(out))

    killed(lambda: [*asked, "killed"], files, len(content(whole)), tmp_path)
    assert content(out) == content(whole)


def test_an_import(fo, tmp_path):
    coco, names = write_source(tmp_path / "bolts", 1000), ("dealkit-test-whole", "dealkit-test-killed")
    before = fo.list_datasets()
    asked = ["browse", coco, "--no-app", "--name"]
    database = fo.core.odm.get_db_conn()

    def imported():
        dataset = fo.dataset_exists(names[1]) and fo.load_dataset(names[1], reload=True)
        return database[dataset._sample_collection_name].count_documents({}) if dataset else 0

    def rows(name):
        dataset = fo.load_dataset(name, reload=True)
        fields = ["filepath", "image_id", "source", "fingerprint", "objects_fingerprint"]
        fields += [f"objects.detections.{field}" for field in ("label", "bounding_box", "annotation_id", "contrast", "size_bin")]
        return sorted(zip(*dataset.values(fields), strict=True)), dataset.list_saved_views()

    try:
        command(*asked, names[0], folder=tmp_path)
        killed(lambda: [*asked, names[1]], imported, 1000, tmp_path)
        assert rows(names[0]) == rows(names[1]) and len(rows(names[0])[0]) == 1000
        assert sorted(fo.list_datasets()) == sorted([*before, *names])
    finally:
        for name in names:
            fo.delete_dataset(name) if fo.dataset_exists(name) else None
