"""`predict.export` and `predict.onnx`: graphs that find what the model finds, for any image and prompt, without torch."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import noise

from dealkit.config import DEFAULT_CHECKPOINT
from dealkit.data.scenes.scene import make_scene
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.predict.embedding import load_embedding
from dealkit.predict.predictor import Predictor

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from dealkit.model.checkpoint import load_model
from dealkit.predict.export import export_onnx
from dealkit.predict.onnx import OnnxPredictor

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float32_cpu")]


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    made = tmp_path_factory.mktemp("graphs")
    assert {file.name for file in export_onnx(tiny_model, made)} == {"encode.onnx", "embed.onnx", "detect.onnx", "model.json"}
    return made


@pytest.fixture(params=["onnxruntime", "openvino"])
def plain(folder, request):
    """A predictor without torch that returns every query."""
    pytest.importorskip(request.param)
    return OnnxPredictor(folder, threshold=0.0, runtime=request.param)


def farthest(found, expected):
    """By how much the detections of two predictors differ, at most: pixels, or ten times the score, of pairs that fit best."""
    assert len(found) == len(expected) and abs(found.count - expected.count) <= 0.01 * max(expected.count, 1)
    if not len(found):
        return 0.0
    pixels = np.abs(np.asarray(expected.boxes)[:, None] - found.boxes).max(-1)
    away = np.maximum(pixels, 10 * np.abs(np.asarray(expected.scores)[:, None] - found.scores))
    return float(max(away.min(1).max(), away.min(0).max()))


@pytest.mark.parametrize("size_hw", [(70, 90), (32, 32), (5, 300), (200, 129)])
def test_every_image_and_prompt_is_answered_as_by_the_model(tiny_model, plain, size_hw, monkeypatch):
    # every query is compared: which of two boxes of random weights stays as the stronger hangs on the last bit of their scores
    monkeypatch.setattr("dealkit.predict.detections.nms", lambda boxes, scores, overlap: np.argsort(-scores, kind="stable"))
    model, image = Predictor(tiny_model, threshold=0.0), noise(*size_hw, seed=sum(size_hw))
    model.set_image(image), plain.set_image(image.permute(1, 2, 0).numpy())
    one, two = [3, 4], [size_hw[1] - 2, 2]
    asked = [([one], None), ([two, one], [1, 0]), ([one, two, two], [1, 1, 1]), ((), None, [[1, 1, 4.5, 4]])]
    for prompts in ([asked[0]], asked[1:3], asked):
        for found, expected in zip(plain.predict_categories(prompts), model.predict_categories(prompts), strict=True):
            assert farthest(found, expected) < 0.1
            assert found.certain == pytest.approx(expected.certain, abs=0.01)
            assert found.clicked.sum() == expected.clicked.sum()
            assert found.points.tolist() == expected.points.tolist()
    assert plain.predict_categories([]) == []


def test_an_embedding_of_one_predictor_is_read_by_the_other(tiny_model, plain, tmp_path):
    model = Predictor(tiny_model, threshold=0.0)
    model.set_image(noise(70, 90)), plain.set_image(noise(70, 90))
    asked, drawn = ([[20, 30], [60, 40]], [1, 0]), {"boxes": [[40, 40, 70, 64]]}
    made, other = plain.embed(None, *asked, **drawn), model.embed(noise(70, 90), *asked, **drawn)
    assert np.abs(made.vectors[0, -2:]).max() > 0.1
    torch.testing.assert_close(torch.from_numpy(made.vectors), other.vectors, rtol=1e-3, atol=1e-4)
    made.save(tmp_path / "prompt.safetensors")
    expected = model.predict_embedding(load_embedding(tmp_path / "prompt.safetensors"))
    found = plain.predict_embedding(load_embedding(tmp_path / "prompt.safetensors", "np"))
    assert farthest(found, expected) < 0.01 and found.clicked is None


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
from dealkit.predict.onnx import OnnxPredictor
predictor = OnnxPredictor(sys.argv[1], threshold=0.0)
predictor.set_image(sys.argv[2])
found = predictor.click(20, 30)
found.save_figure(sys.argv[3])
print(len(found), len(found.adaptive()), predictor.embed(None, [[20, 30]]).vectors.shape[0])
"""


def test_no_torch_is_needed(folder, plain, tmp_path):
    from PIL import Image

    Image.fromarray(noise(70, 90).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    command = [sys.executable, "-c", WITHOUT_TORCH, folder, tmp_path / "a.png", tmp_path / "b.png"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain.set_image(noise(70, 90))
    assert done.stdout.split()[::2] == [str(len(plain.click(20, 30))), "2"] and (tmp_path / "b.png").stat().st_size


COMMAND = """
import runpy, sys

class Missing:
    def find_spec(name, path=None, target=None):
        if name in ("torch", "torchvision"):
            raise ImportError(name)

sys.meta_path.insert(0, Missing)
runpy.run_module("dealkit", run_name="__main__")
"""


def test_the_command_reads_the_graphs_without_torch(folder, plain, tmp_path):
    from PIL import Image

    image, found, prompt = (tmp_path / name for name in ("a.png", "found.json", "kind.safetensors"))
    Image.fromarray(noise(70, 90).permute(1, 2, 0).numpy()).save(image)

    def run(*options):
        options = [sys.executable, "-c", COMMAND, "predict", image, "--checkpoint", folder, "--threshold", 0, *options]
        done = subprocess.run(list(map(str, options)), env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return read_json(found)["scores"]

    plain.set_image(noise(70, 90))
    clicked = run("--point", 20, 30, "--out", found, "--save-embedding", prompt)
    assert clicked == pytest.approx(plain.click(20, 30).scores, abs=1e-4)
    assert run("--embedding", prompt, "--out", found) == pytest.approx(
        plain.predict_embedding(load_embedding(prompt, "np")).scores, abs=1e-4
    )


def test_mistakes_are_told(folder, plain, predictor, tmp_path):
    with pytest.raises(ValueError, match="no image: call set_image first"):
        plain.click(1, 1)
    plain.set_image(noise(40, 50))
    for labels in ([0], [2], [1, 1]):
        with pytest.raises(ValueError, match="prompt set 0: expected labels 1 or 0, one per point, at least one 1"):
            plain.predict([[5, 5]], labels)
    with pytest.raises(ValueError, match=r"point \[51.0, 5.0\] is outside the image"):
        plain.click(51, 5)
    with pytest.raises(ValueError, match=r"boxes\[0\]: not xyxy"):
        plain.predict(boxes=[[5, 5, 5, 9]])
    with pytest.raises(FileNotFoundError, match=r"model\.json"):
        OnnxPredictor(tmp_path)


@pytest.mark.long
def test_the_published_model_gives_the_same_on_a_hundred_images(tmp_path):
    export_onnx(load_model(DEFAULT_CHECKPOINT), tmp_path)
    model, plain, draw = Predictor(threshold=0.0), OnnxPredictor(tmp_path, threshold=0.0), random.Random(0)
    worst = 0.0
    for seed in range(100):
        size_hw = draw.randint(24, 400), draw.randint(24, 400)
        image = make_scene(seed, size_hw=size_hw).image if seed % 5 else torch.full((3, *size_hw), 2 * seed, dtype=torch.uint8)
        points = [[draw.uniform(0, size_hw[1]), draw.uniform(0, size_hw[0])] for _ in range(draw.randint(1, 4))]
        prompts = [(points[:1], None), (points, [1] + [draw.randint(0, 1) for _ in points[1:]])]
        model.set_image(image), plain.set_image(image)
        for found, expected in zip(plain.predict_categories(prompts), model.predict_categories(prompts), strict=True):
            if seed % 5:
                worst = max(worst, farthest(found, expected))
            else:  # all is grey, and the last bit says which of equal cells hold a query: scores alone are compared
                strongest = [np.sort(np.asarray(each.scores))[::-1][:15] for each in (found, expected)]
                assert strongest[0] == pytest.approx(strongest[1], abs=0.01)
                assert found.certain == pytest.approx(expected.certain, abs=0.01)
    assert worst < 0.1
