"""A command line in a process of its own that has imported everything already: what a kill test starts again and again."""

import os
from pathlib import Path

import dealkit.data.parallel
import dealkit.data.tinyset.build
import dealkit.evaluate.benchmark
import dealkit.predict.folder
import dealkit.predict.tiles
import dealkit.train.deal  # noqa: F401
from dealkit.__main__ import main


def run(args: list[str], folder: Path, environment: dict[str, str]) -> None:
    """`python -m dealkit ARGS` in a folder; what it says goes to the file `said` there."""
    dealkit.evaluate.benchmark.validate_on_scenes = lambda model: {}  # takes longer than the training of these tests
    os.environ.update(environment)
    os.chdir(folder)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    main(args)
