"""dealkit: click one small object, get all of its kind."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

FIRST = {"Predictor": "dealkit.predict.predictor", "load_model": "dealkit.model.checkpoint", "fit": "dealkit.train.deal"}
"""What a notebook imports first, and where it stands; read on first use, so that the command line starts without torch."""


def __getattr__(name: str) -> Any:
    if name in FIRST:
        return getattr(import_module(FIRST[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *FIRST]
