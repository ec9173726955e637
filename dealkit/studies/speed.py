"""How fast is a model? Ratios measured side by side: they hardly depend on the machine."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.config import BuildConfig, RunConfig
from dealkit.data.raster import Raster
from dealkit.data.scenes.scene import make_scene
from dealkit.data.tiles import tile_windows
from dealkit.device import autocast, bf16_is_faster
from dealkit.evaluate.coco import dense_case, evaluate
from dealkit.files import provenance
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL, build_model
from dealkit.model.fuse import for_inference
from dealkit.predict.predictor import Predictor, detect, encode_images
from dealkit.predict.tiles import merge_boxes, predict_large
from dealkit.prompts import stack_prompts
from dealkit.studies.memory import peak_gib
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


def crowded(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, tiles and which are cut, as of `merge_boxes`: N boxes of 6 to 24 px, one on 28 x 28 px, a fifth of them
    found by a second tile, too, and a tenth cut to their left half."""
    rng, twice = torch.Generator().manual_seed(seed), n // 5
    corner, size = 28 * n**0.5 * torch.rand(n, 2, generator=rng), 6 + 18 * torch.rand(n, 2, generator=rng)
    boxes = torch.cat([corner, corner + size], dim=1)
    boxes[:twice] = boxes[twice : 2 * twice] + torch.randn(twice, 4, generator=rng)
    cut = torch.rand(n, generator=rng) < 0.1
    boxes[cut, 2] = boxes[cut][:, [0, 2]].mean(1)
    return boxes, torch.rand(n, generator=rng), (torch.arange(n) < twice).long(), cut


def bench_merging(counts: Sequence[int] = (10_000, 100_000, 1_000_000)) -> list[dict[str, float]]:
    """Seconds of CPU to merge so many boxes of several tiles, and how many stay.

    >>> bench_merging([1000])[0]["boxes"]
    1000
    """
    rows = []
    for n in tqdm(counts, desc="merging"):
        case, start = crowded(n), time.process_time()
        kept = len(merge_boxes(*case))
        rows.append({"boxes": n, "cpu_s": time.process_time() - start, "kept": kept})
    return rows


def make_map(path: Path, side: int, seen: int, tile: int = 512) -> list[float]:
    """Write a square GeoTIFF of tiles, whose first `seen` rows of pixels show procedural scenes, and the rest no data, a window
    at a time; its upper left corner lies 500 km east and 5,000 km north in UTM zone 32, a pixel is 0.5 m wide.

    Returns:
        x, y pixels of an object.
    """
    import rasterio

    about = {"size_hw": (tile, tile), "num_objects": max(tile**2 // 90**2, 1), "num_categories": 1, "object_size": 14}
    scenes = [make_scene(i, **about) for i in range(4)]
    form = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "nodata": 0, "sparse_ok": True}
    form |= {"tiled": True, "blockxsize": tile, "blockysize": tile, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    place = rasterio.transform.from_origin(500_000, 5_000_000, 0.5, 0.5)
    with rasterio.open(path, "w", crs="EPSG:32632", transform=place, **form) as file:
        for n, (y, x) in enumerate(itertools.product(range(0, seen, tile), range(0, side, tile))):
            high, wide = min(tile, seen - y), min(tile, side - x)
            file.write(scenes[n % len(scenes)].image[:, :high, :wide].numpy(), window=((y, y + high), (x, x + wide)))
    return to_cxcywh(scenes[0].boxes[0])[:2].tolist()


def bench_map(checkpoint: Path, side: int = 30_000, seen: int = 1024, tile: int = 1024) -> dict[str, float]:
    """One click on a made map: seconds of CPU, tiles with data, boxes, and `peak_gib`."""
    predictor = Predictor(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        point = make_map(Path(folder, "map.tif"), side, seen)
        start = time.process_time()
        found = predict_large(predictor, Raster(Path(folder, "map.tif")), [([point], None)], tile=tile)[0]
        seconds = time.process_time() - start
    windows = tile_windows(side, side, tile, BuildConfig.overlap)
    about = {"side": side, "tile": tile, "tiles": len(windows), "tiles_seen": sum(y1 < seen for _, y1, *_ in windows)}
    return about | {"boxes": len(found), "full": found.full, "cpu_s": seconds, "peak_gib": peak_gib()}


def run_large(checkpoint: Path) -> dict[str, Any]:
    """`bench_map`, then `bench_merging`, whose memory is its own."""
    figures = {"map": bench_map(checkpoint), "merging": bench_merging()}
    return {"checkpoint": Path(checkpoint).name, **figures, "made_by": provenance()}


def run_bench(checkpoint: Path, size: int = 512) -> dict[str, Any]:
    """All figures of this module for one checkpoint, with what they were measured on.

    `evaluate_dense_s`: seconds to evaluate 60 images x 250 objects x 1,000 detections, all numbers.
    """
    figures = bench_inference(load_model(checkpoint), size) | bench_training(RunConfig())
    case, start = dense_case(), time.perf_counter()
    evaluate(*case)
    figures["evaluate_dense_s"] = time.perf_counter() - start
    return {"checkpoint": Path(checkpoint).name, "size": size, **figures, "made_by": provenance()}
