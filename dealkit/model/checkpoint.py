"""Weights with their model's config as safetensors: written in one move, read with errors that name the file."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dealkit.config import ModelConfig, from_dict, to_dict
from dealkit.files import WEIGHTS_PART, files_of, write_atomically
from dealkit.model.deal import DEAL, build_model

Model = TypeVar("Model", bound=torch.nn.Module)
"""A model with the `config` it was built from."""

LARGEST_FILE = 20_000_000
"""Bytes of one published file, at most: weights that need more lie in several, named as Hugging Face names them."""


def save_model(model: Model, path: Path, *, half: bool = False) -> None:
    """Weights and model config as safetensors.

    Args:
        path: file to write. half: to publish: float16, enough for inference, in half the size; and what is over `LARGEST_FILE`
            becomes `NAME-00001-of-00002.safetensors` and so on beside it, which `load_model` reads when it is given `path`.
    """
    tensors = {k: (v.half() if half and v.is_floating_point() else v).contiguous().cpu() for k, v in model.state_dict().items()}
    parts = [tensors] if not half else in_parts(tensors, LARGEST_FILE)
    path, written = Path(path), []
    for i, part in enumerate(parts, 1):
        file = path if len(parts) == 1 else path.with_name(f"{path.stem}-{i:05d}-of-{len(parts):05d}{path.suffix}")
        write_atomically(file, partial(save_file, part, metadata={"config": json.dumps(to_dict(model.config))}))
        written.append(file)
    for old in {path, *path.parent.glob(f"{path.stem}{WEIGHTS_PART}{path.suffix}")} - set(written):  # of a model of another size
        old.unlink(missing_ok=True)


def in_parts(tensors: dict[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    """The tensors in order, in as few parts as may be, none over `largest` bytes unless a single tensor is.

    >>> [list(part) for part in in_parts({"a": torch.zeros(2), "b": torch.zeros(1), "c": torch.zeros(1)}, 12)]
    [['a', 'b'], ['c']]
    """
    parts: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if parts[-1] and sum(t.nbytes for t in parts[-1].values()) + tensor.nbytes > largest:
            parts.append({})
        parts[-1][name] = tensor
    return parts


def read_safetensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file or its parts; an error names the file and, by `kind`, what was expected."""
    files = files_of(path)
    if not files:
        raise ValueError(f"{path}: no such {kind}")
    if files[0] != Path(path) and len(files) != (expected := int(files[0].stem[-5:])):
        raise ValueError(f"{path}: only {len(files)} of its {expected} parts: {', '.join(f.name for f in files)}")
    tensors: dict[str, Tensor] = {}
    for part in files:
        try:
            with safe_open(part, "pt") as file:
                tensors |= {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
                metadata = file.metadata() or {}
        except Exception as error:
            raise ValueError(f"{part}: not a safetensors {kind}: {error}") from None
    return tensors, metadata


def load_model(path: Path, *, expected: ModelConfig | None = None) -> DEAL:
    """The model of a checkpoint written by `save_model`, in float32 and evaluation mode.

    Raises:
        ValueError: not safetensors, without a config, weights that do not fit it, or a config other than `expected`; names
        the file.
    """
    tensors, values = read_checkpoint(path)
    config = from_dict(ModelConfig, {**values, "pretrained": False}, f"{path}: metadata")
    if expected is not None and config != replace(expected, pretrained=False):
        raise ValueError(f"{path}: its model is {config}, expected {expected}")
    return fill_model(build_model(config), tensors, path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain config of a file written by `save_model`; an error names the file."""
    tensors, metadata = read_safetensors(path, "checkpoint")
    if "config" not in metadata:
        raise ValueError(f"{path}: no model config in its metadata; expected a file written by dealkit")
    try:
        return tensors, {**json.loads(metadata["config"])}
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path}: metadata: config is not a JSON object: {error}") from None


def fill_model(model: Model, tensors: dict[str, Tensor], path: Path) -> Model:
    """The model with the weights of a checkpoint, in float32 and evaluation mode; an error names the file and the tensor."""
    for name, expected in model.state_dict().items():
        given = tensors.get(name, expected)
        if given.is_floating_point() != expected.is_floating_point():
            raise ValueError(f"{path}: {name}: expected {expected.dtype}, got {given.dtype}")
        if not torch.isfinite(given.float()).all():
            raise ValueError(f"{path}: {name}: expected finite numbers, got NaN or infinity")
    try:
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path}: weights do not fit their config: {' '.join(str(error).split()):.200}") from None
    return model.eval()
