"""A prompt that outlives its image: clicked once, saved, averaged, and asked of any other image."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from dealkit.config import to_dict
from dealkit.files import read_safetensors, write_atomically
from dealkit.predict.plain import like

if TYPE_CHECKING:  # of `dealkit.predict.onnx` the vectors are arrays, and torch need not be there
    from torch import Tensor

    from dealkit.model.deal import DEAL


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbedding:
    """What was clicked, as the model sees it: all that it needs to find the same kind in another image.

    >>> import torch
    >>> PromptEmbedding(vectors=torch.ones(2, 4) * torch.tensor([[1.0], [0.0]]), clicks=1, model="0123456789ab").has_negative
    False
    """

    vectors: "Tensor"
    """(2, D) float32: of what is meant, and of what is not (zero without negative clicks)."""
    clicks: int
    """How many clicks it was made from."""
    model: str
    """`model_hash` of the model that made it: no other can read it."""
    scale: float = 1.0
    """At which images are read to be asked for it: that at which the clicks were."""
    where: str = "prompt embedding"
    """Its file, which errors name."""

    def __post_init__(self) -> None:
        v = np.asarray(self.vectors)
        if v.ndim != 2 or len(v) != 2 or v.dtype != np.float32 or not np.isfinite(v).all():
            raise ValueError(f"vectors: expected finite (2, D) float32, got {v.shape} {self.vectors.dtype}")
        if self.clicks < 1:
            raise ValueError(f"clicks: expected at least 1, got {self.clicks}")
        if not 0 < self.scale <= 2:
            raise ValueError(f"scale: expected over 0 to 2, got {self.scale}")

    @property
    def has_negative(self) -> bool:
        """Whether a click said what is not meant."""
        return bool(self.vectors[1].any())

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, in one move."""
        about = {"clicks": str(self.clicks), "model": self.model, "scale": str(self.scale)}
        tensors = {"vectors": np.ascontiguousarray(self.vectors)}
        write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata=about))


def load_embedding(path: str | Path, framework: str = "pt") -> PromptEmbedding:
    """The embedding in a file of `PromptEmbedding.save`, as a tensor, or as an array (`np`).

    Raises:
        ValueError: no such file, not safetensors, or a field that is missing or wrong; names the file and the field.
    """
    tensors, about = read_safetensors(Path(path), "prompt embedding", framework)
    for name in ("vectors", "clicks", "model"):
        if name not in {*tensors, *about}:
            raise ValueError(f"{path}: no {name}; expected a file written by PromptEmbedding.save")
    if not about["clicks"].isdecimal():
        raise ValueError(f"{path}: clicks: expected a whole number, got {about['clicks']!r}")
    try:
        about = {"clicks": int(about["clicks"]), "model": about["model"], "scale": float(about.get("scale", 1))}
        return PromptEmbedding(vectors=tensors["vectors"], **about, where=str(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def mean_embedding(embeddings: Sequence[PromptEmbedding]) -> PromptEmbedding:
    """One prompt from several images of one model: the mean of what they mean, and of what they do not where they say so.

    Choice: every image weighs the same, however many clicks it got, since clicks in one image show much the same; images are
    asked at the scale in the middle of theirs.

    >>> import torch
    >>> one, two = (PromptEmbedding(vectors=torch.tensor([[v], [n]]), clicks=1, model="m") for v, n in ((1.0, 0.0), (3.0, 5.0)))
    >>> mean_embedding([one, two]).vectors.tolist()  # (1 + 3) / 2; only the second says what is not meant
    [[2.0], [5.0]]
    """
    models = {e.model for e in embeddings}
    if len(models) != 1:
        raise ValueError(f"embeddings: expected all of one model, got {', '.join(sorted(models)) or 'none'}")
    stacked = np.stack([e.vectors for e in embeddings])
    against = stacked[[e.has_negative for e in embeddings], 1]
    unmeant = against.mean(0) if len(against) else np.zeros_like(stacked[0, 1])
    vectors = like(np.stack([stacked[:, 0].mean(0), unmeant]), embeddings[0].vectors)
    scale = sorted(e.scale for e in embeddings)[len(embeddings) // 2]
    return PromptEmbedding(vectors=vectors, clicks=sum(e.clicks for e in embeddings), model=models.pop(), scale=scale)


def model_hash(model: "DEAL") -> str:
    """First 12 hex digits of the sha256 of a model's config and weights: the same for a model however it was loaded."""
    import torch

    config = {**to_dict(model.config), "pretrained": False}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return digest.hexdigest()[:12]


def check_model(embedding: PromptEmbedding, model: str, width: int | None = None) -> None:
    """Raise ValueError unless the model of hash `model` made the embedding, `width` numbers wide."""
    if embedding.model != model:
        raise ValueError(f"{embedding.where}: made by model {embedding.model}, this is {model}; embed the clicks again")
    if width is not None and embedding.vectors.shape[1] != width:
        raise ValueError(f"{embedding.where}: vectors: expected (2, {width}) of this model, got {tuple(embedding.vectors.shape)}")
