"""What does a folder of very many images cost: time, disk, and memory of the process that shares it among the workers of Ray?"""

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from dealkit.data.scenes.scene import make_scene
from dealkit.files import Json, provenance
from dealkit.predict.detections import Detections
from dealkit.predict.folder import SHARDS, FolderPrompt, predict_folder
from dealkit.predict.predictor import Predictor
from dealkit.studies.memory import peak_gib

SHARD = 10
"""Images of a task in the timed runs."""


def images_per_s(folder: Path, out: Path, prompt: FolderPrompt, workers: int) -> float:
    """Of a local Ray of its own, between the first shards and the last: neither the start nor the loading of models counts."""
    import ray

    predict_folder(folder, out, prompt, engine="ray", workers=workers, shard=SHARD)
    ray.shutdown()
    written = sorted(file.stat().st_mtime for file in (out / SHARDS).rglob("*.jsonl"))
    return SHARD * (len(written) - workers) / (written[-1] - written[workers - 1])


def twenty_boxes(_: Path) -> Detections:
    """Found without looking, so that what is left is the cost of handing out."""
    corner = 20.0 * torch.arange(20)[:, None].expand(-1, 2)
    return Detections(
        boxes=torch.cat([corner, corner + 8], dim=1),
        scores=torch.linspace(0.9, 0.1, 20),
        image=torch.zeros(3, 1, 1, dtype=torch.uint8).expand(-1, 512, 512),
    )


def cost_of_names(count: int, prompt: FolderPrompt) -> Json:
    """Most memory of this process, seconds, and bytes on disk for a folder of `count` names of one image."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "photos"), Path(name, "out")
        folder.mkdir()
        Image.new("L", (8, 8)).save(Path(name, "one.png"))
        for n in range(count):
            (folder / f"tile_{n // 1000:06d}_{n % 1000:06d}.png").symlink_to(Path("..", "one.png"))
        started = time.monotonic()
        result = predict_folder(folder, out, prompt, engine="ray", workers=1, ask=twenty_boxes)
        seconds, images = time.monotonic() - started, sum(1 for _ in result.found)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if images != count:
        raise ValueError(f"{count} names: {images} were found")
    return {"names": count, "mb": peak_gib() * 2**10, "s": seconds, "bytes": size}


def run_many(checkpoint: Path, images: int = 60, names: int = 100_000) -> Json:
    """Images per second of 1 and 2 workers, CPU seconds of an image, and the cost of names; scenes of 512 px, a click in one."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "scenes")
        folder.mkdir()
        scenes = [make_scene(n, size_hw=(512, 512)) for n in range(images)]
        for n, scene in enumerate(scenes):
            Image.fromarray(scene.image.permute(1, 2, 0).numpy()).save(folder / f"{n:05d}.png")
        centre = (scenes[0].boxes[0, :2] + scenes[0].boxes[0, 2:]) / 2
        Predictor(checkpoint).embed(scenes[0].image, [centre.tolist()]).save(Path(made, "kind.safetensors"))
        prompt = FolderPrompt(checkpoint=checkpoint, embedding=Path(made, "kind.safetensors"))
        rates = {str(workers): images_per_s(folder, Path(made, f"out{workers}"), prompt, workers) for workers in (1, 2)}
        used = []
        for part in (images // 4, images):  # the second run loads the model, too
            started = time.process_time()
            predict_folder(folder, Path(made, f"alone{part}"), prompt, images=[f"{n:05d}.png" for n in range(part)])
            used.append(time.process_time() - started)
        costs = []
        for count in (names // 10, names):  # each in a process of its own, for its most memory
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                costs.append(fresh.submit(cost_of_names, count, prompt).result())
    return {
        "checkpoint": Path(checkpoint).name,
        "images": images,
        "images_per_s": rates,
        "cpu_s_per_image": (used[1] - used[0]) / (images - images // 4),
        "names": costs,
        "load": os.getloadavg()[0],
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "made_by": provenance(),
    }
