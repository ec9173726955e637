"""A folder of images: every one is predicted once, whatever happens; kills, bad files, other requests."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from conftest import noise
from PIL import Image

import dealkit.device
from dealkit.files import PROJECT_ROOT, read_json_lines
from dealkit.model.checkpoint import save_model
from dealkit.predict import folder as module
from dealkit.predict.folder import FolderPrompt, FolderResult, list_images, predict_folder
from dealkit.predict.formats import Findings
from dealkit.predict.predictor import Predictor
from dealkit.predict.tiles import embed_large, predict_large

pytestmark = pytest.mark.usefixtures("float32_cpu")


def write_images(folder, names, size=(48, 40)):
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(size[1], size[0], seed).permute(1, 2, 0).numpy()).save(folder / name)


@pytest.fixture
def photos(tmp_path):
    """Three images, one of them in a folder of its own."""
    write_images(tmp_path / "photos", ["a.png", "b.png", "sub/c.png"])
    return tmp_path / "photos"


@pytest.fixture
def prompt(photos, checkpoint):
    """One click in the first image."""
    return FolderPrompt(checkpoint=checkpoint, of=photos / "a.png", points=((20.0, 30.0),), threshold=0.0)


def lines(out):
    return list(read_json_lines(out / "found.jsonl"))[1:]


def test_images_are_listed_by_name_without_hidden_ones_and_results(tmp_path):
    write_images(tmp_path, ["b.PNG", "a.jpg", "z/a.tiff", "found/x.png", ".hidden.png", ".cache/a.png"])
    (tmp_path / "notes.txt").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list_images(tmp_path, tmp_path / "found") == (["a.jpg", "b.PNG", "z/a.tiff"], {".txt": 1})


def test_every_image_gets_what_the_predictor_says(photos, prompt, tmp_path):
    result = predict_folder(photos, tmp_path / "out", prompt)
    predictor = Predictor(prompt.checkpoint, threshold=0.001)
    kind = predictor.embed(prompt.of, prompt.points)
    assert [each.image for each in result.found] == ["a.png", "b.png", "sub/c.png"] and result.left == 0
    for each in result.found:
        predictor.set_image(photos / each.image)
        clicked = each.image == "a.png"  # it is asked by its clicks, the others by their embedding
        expected = predictor.predict(prompt.points) if clicked else predictor.predict_embedding(kind)
        assert expected.to_dict() == {"boxes": each.boxes, "scores": each.scores} and len(each.boxes) > 5
        assert each.adaptive == len(expected.adaptive()) and (each.width, each.height) == (48, 40)


def test_an_example_of_which_nothing_is_certain_is_told(photos, prompt, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dealkit.predict.detections.CERTAIN", 1.1)
    monkeypatch.setattr("dealkit.files._told", set())
    assert len(predict_folder(photos, tmp_path / "found", prompt).found) == 3
    assert caplog.text.count("a.png: nothing certain where the points lie (score 0.") == 1


def test_a_threshold_an_embedding_and_tiles_are_kept_to(photos, prompt, tmp_path):
    predictor = Predictor(prompt.checkpoint, threshold=0.001)
    kind = predictor.embed(prompt.of, prompt.points)
    kind.save(tmp_path / "kind.safetensors")
    asked = FolderPrompt(checkpoint=prompt.checkpoint, embedding=tmp_path / "kind.safetensors", threshold="adaptive")
    for each in predict_folder(photos, tmp_path / "adaptive", asked).found:
        assert len(each.boxes) == each.adaptive
    scores = sorted(score for each in predict_folder(photos, tmp_path / "all", prompt).found for score in each.scores)
    cut = scores[len(scores) // 2]
    kept = [s for each in predict_folder(photos, tmp_path / "cut", replace(prompt, threshold=cut)).found for s in each.scores]
    assert 0 < len(kept) < len(scores) and min(kept) >= round(cut, 4)
    tiled = predict_folder(photos, tmp_path / "tiles", replace(prompt, tile=32, overlap=16)).found[1]
    kind = embed_large(predictor, prompt.of, (prompt.points, None), tile=32, overlap=16)
    expected = predict_large(predictor, photos / "b.png", embedding=kind, tile=32, overlap=16)[0]
    assert tiled.boxes == expected.to_dict()["boxes"]


def test_embedding_in_one_tile_is_that_of_the_whole_image(predictor):
    kind = embed_large(predictor, predictor.image, ([[20, 30], [50, 40]], [1, 0]), tile=512)
    torch.testing.assert_close(kind.vectors, predictor.embed(None, [[20, 30], [50, 40]], [1, 0]).vectors)
    assert kind.model == predictor.model_hash and kind.clicks == 2
    with pytest.raises(ValueError, match="outside the image"):
        embed_large(predictor, predictor.image, ([[200, 30]], None), tile=512)


def test_bad_images_are_named_and_tried_again_and_all_others_are_found(photos, prompt, tmp_path):
    whole = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[: len(whole) // 2])
    (photos / "d.png").write_text("no image")
    (photos / "e.png").symlink_to(photos / "nowhere.png")
    result = predict_folder(photos, tmp_path / "out", prompt)
    assert [each.image for each in result.found] == ["a.png", "sub/c.png"] and set(result.failed) == {"b.png", "d.png", "e.png"}
    assert "truncated" in result.failed["b.png"] and "not an image" in result.failed["d.png"]
    assert "not read    3" in result.table() and "  d.png: not an image" in result.table()
    (photos / "b.png").write_bytes(whole)
    again = predict_folder(photos, tmp_path / "out", prompt)
    assert [each.image for each in again.found] == ["a.png", "b.png", "sub/c.png"] and set(again.failed) == {"d.png", "e.png"}


def test_what_is_done_is_not_done_again_unless_it_changed(photos, prompt, tmp_path, monkeypatch):
    first = predict_folder(photos, tmp_path / "out", prompt)
    monkeypatch.setattr(module, "_asker", lambda prompt: pytest.fail("nothing is left to do"))
    assert predict_folder(photos, tmp_path / "out", prompt) == first
    monkeypatch.undo()
    write_images(photos, ["sub/c.png"], size=(64, 64))
    again = predict_folder(photos, tmp_path / "out", prompt).found
    assert again[:2] == first.found[:2] and again[2].width == 64 and len(lines(tmp_path / "out")) == 4
    (photos / "b.png").unlink()
    assert [each.image for each in predict_folder(photos, tmp_path / "out", prompt).found] == ["a.png", "sub/c.png"]


def test_a_cut_line_is_ignored_and_what_follows_is_whole(photos, prompt, tmp_path):
    first, file = predict_folder(photos, tmp_path / "out", prompt), tmp_path / "out" / "found.jsonl"
    whole = file.read_bytes()
    for cut in random.Random(0).sample(range(len(whole)), 6):
        file.write_bytes(whole[:cut])
        assert predict_folder(photos, tmp_path / "out", prompt) == first
        assert file.read_bytes() == whole


def test_another_request_is_refused_or_begins_anew(photos, prompt, tmp_path, make_tiny):
    predict_folder(photos, tmp_path / "out", prompt)
    other = replace(prompt, points=((21.0, 30.0),))
    with pytest.raises(ValueError, match=r"found\.jsonl: made for another request: points \[\[20\.0, 30\.0\]\], now \[\[21\.0"):
        predict_folder(photos, tmp_path / "out", other)
    predict_folder(photos, tmp_path / "out", other, overwrite=True)
    assert len(lines(tmp_path / "out")) == 3
    save_model(make_tiny(seed=1), prompt.checkpoint)  # the same name, another model
    with pytest.raises(ValueError, match="another request: checkpoint"):
        predict_folder(photos, tmp_path / "out", other)


def test_prompts_and_folders_that_ask_nothing_are_refused(photos, prompt, tmp_path):
    for bad in ({"of": None}, {"points": ()}, {"embedding": prompt.of}, {"threshold": 2.0}):
        with pytest.raises(ValueError, match="expected"):
            replace(prompt, **bad)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no image in it; expected files that end in .png"):
        predict_folder(tmp_path / "empty", tmp_path / "out", prompt)
    with pytest.raises(ValueError, match="outside the image"):
        predict_folder(photos, tmp_path / "out", replace(prompt, points=((20.0, 300.0),)))


def test_totals_are_right(photos):
    boxes = [[0.0, 0.0, 1.0, 1.0]]
    found = [Findings(image=str(n), width=9, height=9, boxes=boxes * n, scores=[0.5] * n, adaptive=4) for n in (0, 1, 2)]
    text = FolderResult(found=found, failed={}, left=0).table()
    assert "3, 1 of them without objects" in text and "3, 1.0 per image" in text and "0.50" in text and "12 with" in text
    assert "mean score  none" in FolderResult(found=[], failed={}, left=0).table()


def test_a_request_to_stop_lets_the_image_in_work_be_finished(photos, prompt, tmp_path, monkeypatch):
    make, before = module._asker, signal.getsignal(signal.SIGTERM)

    def asker(prompt):
        ask = make(prompt)

        def asked(path):
            os.kill(os.getpid(), signal.SIGTERM)
            return ask(path)

        return asked

    monkeypatch.setattr(module, "_asker", asker)
    result = predict_folder(photos, tmp_path / "out", prompt)
    assert result.left == 2 and len(lines(tmp_path / "out")) == 1
    assert signal.getsignal(signal.SIGTERM) == before, "signals mean again what they meant"
    monkeypatch.undo()
    assert predict_folder(photos, tmp_path / "out", prompt).left == 0


def test_another_thread_can_predict_a_folder(photos, prompt, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(predict_folder(photos, tmp_path / "out", prompt)))
    thread.start()
    thread.join()
    assert len(results[0].found) == 3


@pytest.mark.slow
def test_ray_finds_the_same_whatever_is_killed_and_bad(tmp_path, checkpoint):
    """Two workers; one is killed at its fifth image, one image kills every worker that reads it, and one is none."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install -e .[ray]")
    photos, names = tmp_path / "photos", [f"{n:02d}.png" for n in range(20)]
    write_images(photos, names)
    (photos / "03.png").write_text("no image")
    prompt = FolderPrompt(checkpoint=checkpoint, of=photos / "00.png", points=((20.0, 30.0),), threshold=0.0)
    find, marker, asked = module._asker(prompt), tmp_path / "killed", tmp_path / "asked"
    asked.mkdir()

    def ask(path):
        dealkit.device.bf16_is_faster = lambda device: False
        if path.name == "17.png" or (path.name == "08.png" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (asked / path.name).touch()
        return find(path)

    def on_ray():
        return predict_folder(photos, tmp_path / "ray", prompt, engine="ray", workers=2, shard=4, ask=ask)

    try:
        expected = predict_folder(photos, tmp_path / "here", prompt, images=names[:17] + names[18:])
        result = on_ray()
        assert marker.exists() and sorted(result.found, key=lambda each: each.image) == expected.found and result.left == 0
        assert set(result.failed) == {"03.png", "17.png"} and "not an image" in result.failed["03.png"]
        assert result.failed["17.png"].startswith("every worker that read it died") and len(list(asked.iterdir())) == 19
        assert "images      18" in result.table() and "not read    2" in result.table()
        rows = lines(tmp_path / "ray")  # every image stands in one shard, once; no other file is left
        shards = [tmp_path / "ray" / "shards" / row["shard"] for row in rows]
        assert sorted(row["image"] for shard in shards for row in read_json_lines(shard)) == names
        assert {path for path in (tmp_path / "ray" / "shards").rglob("*") if path.is_file()} == set(shards)
        # as a kill of the driver leaves it: the last two shards are written, but not noted
        shutil.rmtree(asked)
        asked.mkdir()
        file = tmp_path / "ray" / "found.jsonl"
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))
        again = {row["image"] for shard in shards[-2:] for row in read_json_lines(shard)} | {"03.png"} - {"17.png"}
        result = on_ray()
        assert sorted(result.found, key=lambda each: each.image) == expected.found and set(result.failed) == {"03.png", "17.png"}
        assert {path.name for path in asked.iterdir()} == again - {"17.png"}
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_run_that_is_killed_gives_the_same_files_as_one_in_one_go(tmp_path, checkpoint):
    write_images(tmp_path / "photos", [f"{n:02d}.png" for n in range(30)])
    command = [sys.executable, "-m", "dealkit", "predict", str(tmp_path / "photos"), "--of", "00.png", "--point", "20,30"]
    command += ["--checkpoint", str(checkpoint), "--threshold", "0.0", "--format", "coco", "csv", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert subprocess.run([*command, "whole"], **options).returncode == 0
    process = subprocess.Popen([*command, "killed"], **options)
    while len(lines(tmp_path / "killed")) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL and len(lines(tmp_path / "killed")) < 30
    assert subprocess.run([*command, "killed"], **options).returncode == 0
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "killed").iterdir())
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
