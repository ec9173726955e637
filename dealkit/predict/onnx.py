"""`OnnxPredictor`: what `Predictor` does, on the graphs of `export_onnx` and without torch. Answers are NumPy arrays."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dealkit.data.images import AnyImage, as_array
from dealkit.files import read_json
from dealkit.predict.detections import Detections, answers, from_raw, in_image, reread, scaled, shown
from dealkit.predict.embedding import PromptEmbedding, check_model
from dealkit.predict.plain import Prompt, read_prompts, resized, stack, to_pixels
from dealkit.predict.threshold import ADAPTIVE, check_threshold

Arrays = dict[str, np.ndarray]


class OnnxPredictor:
    """One image at a time, as `Predictor`: `set_image`, then click as often as wanted.

    >>> predictor = OnnxPredictor("nano_onnx")  # doctest: +SKIP
    >>> predictor.set_image("photo.jpg")  # doctest: +SKIP
    >>> predictor.click(120, 85).boxes  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threshold: float | Literal["adaptive"] = ADAPTIVE,
        together: bool = True,
        rescale: bool = True,
        runtime: Literal["onnxruntime", "openvino"] = "onnxruntime",
        threads: int = 0,
    ):
        """Load the graphs.

        Args:
            folder: of `python -m dealkit export onnx`. threshold, together, rescale: as of `Predictor`.
            runtime: what runs the graphs, on the CPU. threads: that it uses; 0: as many as it likes.

        Raises:
            FileNotFoundError: no graphs in the folder. ValueError: the runtime is not installed.
        """
        self.threshold, self.together, self.rescale = check_threshold(threshold), together, rescale
        self.about = read_json(Path(folder) / "model.json")
        load = {"onnxruntime": _of_onnxruntime, "openvino": _of_openvino}[runtime]
        try:
            self.graphs = {part: load(Path(folder) / f"{part}.onnx", threads) for part in ("encode", "embed", "detect")}
        except ImportError:
            raise ValueError(f"runtime: install {runtime} with `pip install {runtime}`") from None
        self.image: np.ndarray | None = None
        self.kept: dict[float, Arrays] = {}

    def set_image(self, image: AnyImage) -> None:
        """Encode an image: a path, a PIL image, an (H, W) or (H, W, 3) array; see `as_image`."""
        self.image = as_array(image)
        self.kept = {1.0: self._encode(self.image)}

    def click(self, x: float, y: float) -> Detections:
        """Everything that is of the kind of the object at pixel (x, y)."""
        return self.predict([[x, y]])

    def predict(self, points: Any = (), labels: Any = None, *, boxes: Any = ()) -> Detections:
        """As `Predictor.predict`."""
        return self.predict_categories([(points, labels, boxes)])[0]

    def predict_categories(self, prompts: Sequence[Prompt]) -> list[Detections]:
        """As `Predictor.predict_categories`."""
        self._encoded()
        sets = read_prompts(prompts, self.image.shape[1:])
        return (
            answers(self._answers(sets, self.image, self.kept), sets, self.image, self.threshold, self.together) if sets else []
        )

    def embed(self, image: AnyImage | None, points: Any = (), labels: Any = None, *, boxes: Any = ()) -> PromptEmbedding:
        """As `Predictor.embed`; `load_embedding(path, "np")` reads a saved one."""
        pixels = self.image if image is None else as_array(image)
        kept = {1.0: self._encoded() if image is None else self._encode(pixels)}
        sets = read_prompts([(points, labels, boxes)], pixels.shape[1:])
        scale = self._answers(sets, pixels, kept)[0].scale if self.rescale else 1.0
        features, clicks = kept[scale], stack(scaled(sets, scale))
        vectors = self.graphs["embed"](features | clicks)["embedded"]
        if clicks["sizes"].any():
            vectors[:, 0, -2:] = self.graphs["detect"](features | clicks | {"embedding": vectors})["wider"]
        return PromptEmbedding(vectors=vectors[0], clicks=len(sets[0][0]), model=self.about["model"], scale=scale)

    def predict_embedding(self, embedding: PromptEmbedding) -> Detections:
        """As `Predictor.predict_embedding`."""
        self._encoded()
        check_model(embedding, self.about["model"], self.about["embedding_dim"])
        features, size_hw = self._read(self.image, self.kept, embedding.scale)
        zeros = np.zeros((1, 1, 2), np.float32)
        nothing = {"points": zeros, "labels": np.full((1, 1), -1), "sizes": zeros}  # a point that is padding
        vectors = {"embedding": np.asarray(embedding.vectors)[None]}
        found = self._detect(features | nothing | vectors, size_hw, 0)[0]
        return replace(shown(in_image(found, embedding.scale), self.threshold), image=self.image)

    def _encoded(self) -> Arrays:
        if not self.kept:
            raise ValueError("no image: call set_image first")
        return self.kept[1.0]

    def _read(self, image: np.ndarray, kept: dict[float, Arrays], scale: float) -> tuple[Arrays, tuple[int, int]]:
        """Features of the image at a scale, of `kept` or put there, and its size."""
        if scale not in kept:
            kept[scale] = self._encode(image if scale == 1 else resized(image, scale))
        return kept[scale], kept[scale]["size_hw"]

    def _answers(self, sets: Sequence[tuple], image: np.ndarray, kept: dict[float, Arrays]) -> list[Detections]:
        """As `predictor.Reading.answers`."""

        def ask(of: list[tuple], scale: float) -> list[Detections]:
            features, size_hw = self._read(image, kept, scale)
            clicks = stack(of)
            meant = {"embedding": self.graphs["embed"](features | clicks)["embedded"]}
            return self._detect(features | clicks | meant, size_hw, clicks["points"].shape[1])

        return reread(ask, sets, image.shape[1:], self.rescale)

    def _encode(self, image: np.ndarray) -> Arrays:
        size_hw = image.shape[1:]
        return self.graphs["encode"]({"pixels": to_pixels(image), "size_hw": np.array([size_hw])}) | {"size_hw": size_hw}

    def _detect(self, given: Arrays, size_hw: tuple[int, int], clicks: int) -> list[Detections]:
        out = self.graphs["detect"](given)
        rows = zip(out["logits"], out["boxes"], out["valid"], out["count"].tolist(), strict=True)
        return [from_raw(*row, self.about["starts"], size_hw, clicks=clicks) for row in rows]


def _of_onnxruntime(file: Path, threads: int) -> Callable[[Arrays], Arrays]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs, outputs = ([node.name for node in nodes] for nodes in (session.get_inputs(), session.get_outputs()))
    return lambda given: dict(zip(outputs, session.run(None, {name: given[name] for name in inputs}), strict=True))


def _of_openvino(file: Path, threads: int) -> Callable[[Arrays], Arrays]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    graph = openvino.Core().compile_model(str(file), "CPU", {**options, "INFERENCE_PRECISION_HINT": "f32"})
    inputs = [port.get_any_name() for port in graph.inputs]

    def run(given: Arrays) -> Arrays:
        found = graph({name: given[name] for name in inputs})
        return {port.get_any_name(): found[port].copy() for port in graph.outputs}

    return run
