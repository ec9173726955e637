"""What runs the model fastest on a CPU, at which cost? PyTorch, ONNX Runtime and OpenVINO, in floats and in 8-bit integers.

Every runtime answers in a process of its own, which loads nothing that it does not need: the most memory of that process is what
the runtime needs. So PyTorch is imported in functions here.
"""

import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dealkit.files import Json
from dealkit.predict.detections import to_rows
from dealkit.studies.memory import peak_gib

CALIBRATION = 12
"""Procedural scenes that the ranges of the 8-bit encoder are read from."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process does: time one image, then answer every prompt of some images."""

    runtime: str
    """`pytorch`, `onnxruntime` or `openvino`."""
    threads: int
    model: Path
    """A checkpoint, or a folder of graphs."""
    timed: np.ndarray
    """(H, W, 3) uint8 image that is encoded and clicked in the middle."""
    repeats: int
    images: list[tuple[int, Path, list[tuple[int, list[list[float]]]]]]
    """Image id, file, and category id and points of each prompt."""


def answer(task: Task) -> Json:
    """`encode_ms` and `click_ms`, medians; `mb`, the most memory of this process; `found`, COCO results of all prompts."""
    if task.runtime == "pytorch":
        import torch

        from dealkit.predict.predictor import Predictor

        torch.set_num_threads(task.threads)
        predictor: Any = Predictor(task.model, threshold=0.0, together=False, device="cpu")
    else:
        from dealkit.predict.onnx import OnnxPredictor

        predictor = OnnxPredictor(task.model, threshold=0.0, together=False, runtime=task.runtime, threads=task.threads)
    middle = task.timed.shape[1] / 2, task.timed.shape[0] / 2
    steps = {"encode_ms": lambda: predictor.set_image(task.timed), "click_ms": lambda: predictor.click(*middle)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(2 + task.repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    found = []
    for image_id, file, prompts in task.images:
        predictor.set_image(file)
        answers = predictor.predict_categories([(points, None) for _, points in prompts])
        for (category, _), detections in zip(prompts, answers, strict=True):
            found += to_rows(detections, image_id, category)
    return {name: statistics.median(values[2:]) for name, values in times.items()} | {"mb": peak_gib() * 2**10, "found": found}


def quantized(graphs: Path, out: Path, images: Sequence[np.ndarray]) -> Path:
    """A copy of exported graphs whose encoder convolves in 8-bit integers, with ranges read from images (3, h, w) uint8.

    Choice: the encoder alone, which takes most of the time, and whose convolutions bear it; boxes of the decoder would not.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from dealkit.predict.plain import to_pixels

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"pixels": to_pixels(image), "size_hw": np.array([image.shape[1:]])} for image in images]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    shutil.copytree(graphs, out)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
    file = "encode.onnx"
    quantize_static(graphs / file, out / file, Reader(), per_channel=True, op_types_to_quantize=["Conv"], **types)
    return out


def cold_start(model: Path, image: Path) -> float:
    """Seconds of `predict IMAGE --point 8 8` as a new process, from its start to its end."""
    command = [sys.executable, "-m", "dealkit", "predict", str(image), "--point", "8", "8", "--checkpoint", str(model)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def run_runtimes(checkpoint: Path, coco: Path, *, images: int = 24, size: int = 512, repeats: int = 20) -> Json:
    """A row per runtime, precision and number of threads: times of an image of `size`, memory, size on disk, and `ap50` and
    `ap75` on the first images of a COCO file, one click per category; where the command reads it, `cold_s` of `cold_start`.

    Raises:
        ValueError: a runtime or what writes its graphs is not installed; names the packages.
    """
    from dealkit.clicks import make_clicks
    from dealkit.data.annotations import read_coco
    from dealkit.data.coco import CocoFolder
    from dealkit.data.scenes.scene import make_scene
    from dealkit.data.subsets import first_images
    from dealkit.device import bf16_is_faster
    from dealkit.evaluate.coco import evaluate
    from dealkit.files import provenance, sha_of
    from dealkit.model.checkpoint import load_model
    from dealkit.predict.export import export_onnx

    if missing := [name for name in ("onnxscript", "onnxruntime", "openvino") if find_spec(name) is None]:
        raise ValueError(f"bench --runtimes: install {', '.join(missing)} with `pip install dealkit[onnx] openvino`")
    truth, data = first_images(read_coco(coco), images), CocoFolder(coco)
    clicks = make_clicks(truth, setting="1/category", seed=0)
    of_image: dict[int, list[tuple[int, list[list[float]]]]] = {}
    for prompt in clicks["prompts"]:
        of_image.setdefault(prompt["image_id"], []).append((prompt["category_id"], prompt["points"]))
    names = dict(zip(data.image_ids, data.file_names, strict=True))
    asked = [(image_id, data.images / names[image_id], prompts) for image_id, prompts in of_image.items()]
    timed = make_scene(0, size_hw=(size, size)).image.permute(1, 2, 0).numpy()
    rows = []
    with tempfile.TemporaryDirectory() as made:
        graphs = Path(made, "fp32")
        export_onnx(load_model(checkpoint), graphs)
        scenes = [make_scene(1 + n, size_hw=(size, size)).image.numpy() for n in range(CALIBRATION)]
        models = {"fp32": graphs, "int8": quantized(graphs, Path(made, "int8"), scenes)}
        ways = [("pytorch", "bf16" if bf16_is_faster("cpu") else "fp32", Path(checkpoint))]
        ways += [(runtime, precision, models[precision]) for runtime in ("onnxruntime", "openvino") for precision in models]
        todo = [(*way, threads) for way in ways for threads in (1, 2)]
        fresh = {"max_workers": 1, "mp_context": multiprocessing.get_context("spawn")}
        for runtime, precision, model, threads in tqdm(todo, desc="runtimes"):
            task = Task(runtime=runtime, threads=threads, model=model, timed=timed, repeats=repeats, images=asked)
            with ProcessPoolExecutor(**fresh) as pool:
                row = pool.submit(answer, task).result()
            scores = evaluate(truth, row.pop("found"), clicks)["all"]
            files = [model] if model.is_file() else [*model.glob("*.onnx")]
            about = {"runtime": runtime, "precision": precision, "threads": threads}
            if (runtime, threads) in (("pytorch", 2), ("onnxruntime", 2)):
                about["cold_s"] = statistics.median(cold_start(model, data.images / data.file_names[0]) for _ in range(3))
            about |= {"file_mb": sum(file.stat().st_size for file in files) / 1e6}
            rows.append(about | row | {name: scores[name] for name in ("ap50", "ap75")})
    about = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "source": data.source, "images": len(asked)}
    return about | {"size": size, "rows": rows, "made_by": provenance()}
