"""DEAL as three ONNX graphs, of which the prompt is an input: encode an image, embed clicks, detect.

Height, width, prompt sets and clicks are free. `dealkit.predict.onnx` runs them without torch. `N` prompt sets, `P` points,
`K` queries.
"""

import contextlib
import io
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from dealkit.files import write_atomically, write_json
from dealkit.model.deal import DEAL, Features
from dealkit.model.fuse import for_inference
from dealkit.predict.embedding import model_hash
from dealkit.prompts import PointPrompts

PARTS = {"maps": 4, "keys": 3, "keep": 3}
"""Fields of `Features` that are lists, and their lengths."""


def flat(features: Features) -> dict[str, Tensor]:
    """Every tensor of the features of one image, by name: `maps0`, ..., `values`, `edges`."""
    named = {f"{name}{i}": tensor for name in PARTS for i, tensor in enumerate(getattr(features, name))}
    return {**named, "values": features.values, "edges": features.edges}


def unflat(named: dict[str, Tensor]) -> Features:
    """The features of `flat`."""
    lists = {name: [named[f"{name}{i}"] for i in range(n) if f"{name}{i}" in named] for name, n in PARTS.items()}
    return Features(**lists, values=named["values"], edges=named["edges"])


class Graph(nn.Module):
    """One of the three parts of a model, from named tensors to a tuple of tensors."""

    def __init__(self, model: DEAL, part: str):
        super().__init__()
        self.model, self.part = model, part

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        if self.part == "encode":
            return tuple(flat(self.model.encode(given["pixels"], given["size_hw"])).values())
        points, index = given["points"], given["points"].new_zeros(given["points"].shape[0], dtype=torch.int64)
        prompts = PointPrompts(points=points, labels=given["labels"], image_index=index, sizes=given["sizes"])
        if self.part == "embed":
            return (self.model.embed(unflat(given), prompts),)
        out = self.model.detect(unflat(given), prompts, embedding=given["embedding"])
        return out.pred_logits, out.pred_boxes, out.valid, out.count, out.wider


OUTPUTS = {"embed": ["embedded"], "detect": ["logits", "boxes", "valid", "count", "wider"]}
"""What the graphs give: (N, 2, E); (N, K), (N, K, 4) cxcywh pixels, (N, K), (N,) and (N, 2) of `deal.Output`."""


def export_onnx(model: DEAL, folder: Path) -> list[Path]:
    """Write `encode.onnx`, `embed.onnx`, `detect.onnx` and `model.json`, which says how to run them; gives the files.

    Args:
        model: in float32, on the CPU. folder: is made if it is not there.

    Raises:
        ValueError: onnxscript, which writes the graphs, is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError("export onnx: install its packages with `pip install dealkit[onnx]`") from None
    fast, folder = for_inference(model, float32=True), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    h, w, n, p = Dim("h"), Dim("w"), Dim("n"), Dim("p")
    pixels = {"pixels": torch.zeros(1, 3, 96, 160), "size_hw": torch.tensor([[90, 150]])}
    clicks = {"points": torch.rand(2, 7, 2) * 90, "labels": torch.ones(2, 7, dtype=torch.int64), "sizes": torch.zeros(2, 7, 2)}
    with torch.no_grad():
        features = flat(fast.encode(pixels["pixels"], pixels["size_hw"]))
    cells = {"values": {1: Dim.AUTO}, "edges": {1: Dim.AUTO} if fast.config.edge_dim else {}}
    for name, tensor in features.items():
        if name not in cells:
            side = 96 // tensor.shape[-2]  # a map of so many pixels a cell
            cells[name] = {tensor.ndim - 2: 32 // side * h, tensor.ndim - 1: 32 // side * w}
    asked = {name: {0: n, 1: p} for name in clicks}
    embedding = {"embedding": torch.zeros(2, 2, fast.embedding_dim)}
    graphs = {
        "encode": (pixels, {"pixels": {2: 32 * h, 3: 32 * w}, "size_hw": {}}),
        "embed": (features | clicks, cells | asked),
        "detect": (features | clicks | embedding, cells | asked | {"embedding": {0: n}}),
    }
    files = []
    for part, (given, shapes) in graphs.items():
        shapes = {name: shapes[name] for name in given}
        with torch.no_grad():
            program = torch.export.export(Graph(fast, part), (given,), dynamic_shapes=(shapes,), strict=False)
        names = {"input_names": list(given), "output_names": OUTPUTS.get(part, list(features))}
        with contextlib.redirect_stdout(io.StringIO()):
            made = torch.onnx.export(program, dynamo=True, verbose=False, **names)
        file = folder / f"{part}.onnx"
        write_atomically(file, partial(made.save, external_data=False))
        files.append(file)
    about = {"model": model_hash(model), "starts": len(fast.config.click_sizes), "embedding_dim": fast.embedding_dim}
    write_json(folder / "model.json", about)
    return [*files, folder / "model.json"]
