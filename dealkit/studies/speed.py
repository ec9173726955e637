"""How fast is a model? Ratios measured side by side: they hardly depend on the machine."""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from dealkit.config import RunConfig
from dealkit.data.scenes.scene import make_scene
from dealkit.device import autocast, bf16_is_faster
from dealkit.evaluate.coco import dense_case, evaluate
from dealkit.files import provenance
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL, build_model
from dealkit.predict.predictor import detect, encode_images, for_inference
from dealkit.prompts import stack_prompts
from dealkit.train.deal import loss_of_batch
from dealkit.train.stream import draw_prompts

RTDETR_R18 = {
    "encoder_in_channels": [128, 256, 512],
    "hidden_expansion": 0.5,
    "decoder_layers": 3,
    "backbone_config": {
        "embedding_size": 64,
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
}
"""RT-DETRv2-R18: what its published configuration has other than Hugging Face's defaults."""


def rtdetr_r18() -> nn.Module:
    """Hugging Face's RT-DETRv2-R18 with random weights.

    Raises:
        ValueError: transformers is not installed; names the extra that brings it.
    """
    try:
        from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection
        from transformers.models.rt_detr.configuration_rt_detr_resnet import RTDetrResNetConfig
    except ImportError:
        raise ValueError("bench compares with RT-DETR: install transformers with `pip install -e .[dev]`") from None
    backbone = RTDetrResNetConfig(**RTDETR_R18["backbone_config"])
    return RTDetrV2ForObjectDetection(RTDetrV2Config(**{**RTDETR_R18, "backbone_config": backbone})).eval()


def milliseconds(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median time of each function; they take turns, so that a busy moment of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
        function()
    for _ in tqdm(range(repeats), desc="timing", mininterval=1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def bench_inference(model: DEAL, size: int = 512, repeats: int = 60) -> dict[str, float]:
    """Encode, click and RT-DETRv2-R18 on one square image, batch 1, each in its faster precision, on the CPU."""
    model = for_inference(model)
    rtdetr = rtdetr_r18().to(memory_format=torch.channels_last)
    image = make_scene(0, size_hw=(size, size)).image
    pixels = torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last)
    prompts = stack_prompts([(torch.tensor([[size / 2, size / 2]]), torch.tensor([1]))], [0])
    features = encode_images(model, [image])

    @torch.inference_mode()
    def forward(bf16: bool) -> None:
        with autocast(torch.device("cpu")) if bf16 else nullcontext():
            rtdetr(pixel_values=pixels)

    functions: dict[str, Callable[[], Any]] = {
        "encode_ms": lambda: encode_images(model, [image]),
        "click_ms": lambda: detect(model, features, prompts),
        "rtdetr_fp32_ms": lambda: forward(False),
    }
    if bf16_is_faster("cpu"):
        functions["rtdetr_bf16_ms"] = lambda: forward(True)
    times = milliseconds(functions, repeats)
    best = min(value for name, value in times.items() if name.startswith("rtdetr"))
    return {
        **times,
        "queries": int(detect(model, features, prompts).valid.sum()),
        "encode_and_click_to_rtdetr": (times["encode_ms"] + times["click_ms"]) / best,
        "click_to_rtdetr": times["click_ms"] / best,
    }


def bench_training(config: RunConfig, steps: int = 6) -> dict[str, float]:
    """Images per second of a training step on procedural scenes of `config.data.size`, data making not counted."""
    model = build_model(config.model).train()
    optimizer = torch.optim.AdamW(model.parameters())
    size, batch = config.data.size, config.train.batch_size
    scenes = [[make_scene(b * batch + i, size_hw=(size, size)) for i in range(batch)] for b in range(steps)]
    generator = torch.Generator().manual_seed(0)
    times = []
    for samples in tqdm(scenes, desc="training steps"):
        start = time.perf_counter()
        drawn = draw_prompts(samples, config.data, generator)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(loss_of_batch(model, samples, drawn, config, generator).values())).sum().backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return {"train_images_per_s": batch / statistics.median(times[1:]), "train_size": size, "train_batch": batch}


def run_bench(checkpoint: Path, size: int = 512) -> dict[str, Any]:
    """All figures of this module for one checkpoint, with what they were measured on.

    `evaluate_dense_s`: seconds to evaluate 60 images x 250 objects x 1,000 detections, all numbers.
    """
    figures = bench_inference(load_model(checkpoint), size) | bench_training(RunConfig())
    case, start = dense_case(), time.perf_counter()
    evaluate(*case)
    figures["evaluate_dense_s"] = time.perf_counter() - start
    return {"checkpoint": Path(checkpoint).name, "size": size, **figures, "made_by": provenance()}
