"""`dealkit.studies.runtimes`: every runtime answers what the model answers, in a process of its own."""

import subprocess
import sys

import pytest
from conftest import noise
from PIL import Image

from dealkit.predict.detections import to_rows
from dealkit.predict.predictor import Predictor
from dealkit.report.tables import runtimes_table
from dealkit.studies.runtimes import Task, answer, run_runtimes


def test_a_process_answers_every_prompt_and_tells_its_cost(checkpoint, tmp_path):
    pixels = noise(50, 70).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    asked = [(7, tmp_path / "a.png", [(1, [[20.0, 30.0]]), (3, [[60.0, 9.0], [4.0, 5.0]])])]
    row = answer(Task(runtime="pytorch", threads=1, model=checkpoint, timed=pixels, repeats=1, images=asked))
    predictor = Predictor(checkpoint, threshold=0.0, together=False)
    predictor.set_image(tmp_path / "a.png")
    answers = predictor.predict_categories([(points, None) for _, points in asked[0][2]])
    assert row["found"] == [r for found, category in zip(answers, (1, 3), strict=True) for r in to_rows(found, 7, category)]
    assert row["encode_ms"] > 0 and row["click_ms"] > 0 and row["mb"] > 60


def test_a_runtime_without_pytorch_does_not_load_it():
    code = "import sys, dealkit.studies.runtimes, dealkit.predict.onnx; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_every_runtime_stands_in_the_table(checkpoint, tiny_coco):
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    figures = run_runtimes(checkpoint, tiny_coco, images=2, size=64, repeats=1)
    exact = [row["ap50"] for row in figures["rows"] if row["precision"] == "fp32"]  # PyTorch's may be bfloat16
    assert len(exact) >= 4 and exact == pytest.approx(exact[:1] * len(exact), abs=1e-3), "the same graphs give the same boxes"
    lines = runtimes_table(figures).splitlines()
    assert len(lines) == 2 + 10 and lines[2].startswith("| PyTorch |") and "| OpenVINO | int8 | 2 |" in lines[-1]
