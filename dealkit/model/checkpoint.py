"""Weights with their model's config as safetensors: written in one move, read with errors that name the file."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from dealkit.config import ModelConfig, from_dict, to_dict
from dealkit.files import WEIGHTS_PART, read_safetensors, write_atomically
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


@torch.no_grad()
def take_over(model: Model, path: Path) -> Model:
    """The model with the weights of a checkpoint of another config wherever name and shape agree; the rest stays as it is.

    A layer that has more inputs than it had keeps its weights for the first, and starts from zero for the others.

    Raises:
        ValueError: not a checkpoint, or one that has nothing in common with the model; names the file.
    """
    old, state, taken = read_checkpoint(path)[0], model.state_dict(), 0
    for name, new in state.items():
        if name not in old or old[name].ndim != new.ndim:
            continue
        if (before := old[name]).shape == new.shape:
            new.copy_(before)
        elif new.ndim > 1 and len(before) == len(new) and before.shape[2:] == new.shape[2:] and before.shape[1] < new.shape[1]:
            new[:, before.shape[1] :] = 0
            new[:, : before.shape[1]] = before
        else:
            continue
        taken += 1
    if not taken:
        raise ValueError(f"{path}: none of its weights fits this model")
    return model


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
        raise ValueError(f"{path}: weights do not fit their config: {one_line(error)}") from None
    return model.eval()


def load_state(path: Path, parts: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Fill the parts of a training (models, optimizer) from its `state.pt`; gives all that the file holds.

    Raises:
        ValueError: not a file of `torch.save`, a part that is missing or does not fit; names the file and the part.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # PyTorch has many kinds
        raise ValueError(f"{path}: not a state to resume from: {one_line(error)}") from None
    for name, part in parts.items():
        try:
            part.load_state_dict(state[name])
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: {name}: does not fit this run: {one_line(error)}") from None
    return state


def one_line(error: Exception, longest: int = 200) -> str:
    """Text of an error of another library, on one line and cut to so many letters.

    >>> one_line(RuntimeError("size mismatch:\\n\\texpected 4"), 20)
    'size mismatch: expec'
    """
    return " ".join(str(error).split())[:longest]
