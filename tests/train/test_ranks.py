"""`dealkit.train.ranks`: several processes do what one does, to float noise; they stop together, and rank 0 alone writes."""

import socket
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from conftest import changed, losses, seeded
from rank_case import train_in_parts

from dealkit.baselines.methods import train_with
from dealkit.config import DetectorRun
from dealkit.model.loss import total_weight
from dealkit.train import ranks
from dealkit.train.deal import fit
from dealkit.train.loop import read_log
from dealkit.train.stream import TrainingStream, draw_prompts

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def steady(run):
    """A run in small steps, in which kinds are asked for across images, too."""
    return changed(replace(run, data=replace(run.data, absent=1.0)), batch_size=4, lr=1e-5, steps=4)


def be(monkeypatch, rank, count):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))


def test_every_image_and_prompt_of_a_batch_is_the_part_of_one_rank(steady, monkeypatch):
    stream = TrainingStream(steady.data, 1, 4)
    drawn = draw_prompts([stream[i] for i in range(4)], steady.data, seeded())
    assert (drawn.clicked.image_index[drawn.origin] != drawn.asked.image_index).any()
    parts, weight = [], 0.0
    for rank in range(3):
        be(monkeypatch, rank, 3)
        assert ranks.every_rank_has_some(drawn)
        images, sets, rows = part = ranks.own_part(drawn, 4)
        own = ranks.pick(drawn.asked, rows, images)
        assert (
            len(sets)
            and images[own.image_index].equal(drawn.asked.image_index[rows])
            and own.points.equal(drawn.asked.points[rows])
        )
        weight += float(total_weight([drawn.targets[n] for n in rows]))
        parts.append(part)
    for numbers, total in zip(zip(*parts, strict=True), (4, len(drawn.clicked), len(drawn)), strict=True):
        assert torch.cat(numbers).sort().values.tolist() == list(range(total))
    assert weight == pytest.approx(float(total_weight(drawn.targets)))
    be(monkeypatch, 0, 5)
    assert not ranks.every_rank_has_some(drawn)  # four images


@pytest.mark.slow
def test_two_processes_leave_the_trace_of_one_resume_exactly_and_stop_together(steady, tmp_path):
    alone = fit(steady, tmp_path / "alone")
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(5)]
        ports = [each.bind(("127.0.0.1", 0)) or each.getsockname()[1] for each in free]
    torch.multiprocessing.spawn(train_in_parts, (ports, steady, tmp_path), nprocs=2)
    traces = {name: losses(read_log(tmp_path / name)) for name in ("whole", "parts", "stopped")}
    assert traces["whole"] == pytest.approx(losses(alone), rel=1e-5) and traces["parts"] == traces["stopped"] == traces["whole"]
    norms = [[line["norm"] for line in read_log(tmp_path / name) if "norm" in line] for name in ("alone", "whole")]
    # in the last step a value before a ReLU of the stem, 4e-7 alone, is -4e-7 in two processes: its gradient is off
    assert norms[1][:3] == pytest.approx(norms[0][:3], rel=1e-4) and norms[1][3] == pytest.approx(norms[0][3], rel=5e-3)
    files = [{file.name for file in (tmp_path / name).iterdir()} - {"tensorboard"} for name in ("alone", "whole")]
    assert files[0] == files[1]


def test_a_batch_that_cannot_be_shared_and_a_detector_are_refused(steady, monkeypatch, tmp_path):
    be(monkeypatch, 0, 3)
    with pytest.raises(ValueError, match="batch_size 4: expected a multiple of the 3 processes"):
        fit(steady, tmp_path / "run")
    with pytest.raises(ValueError, match="trained in one process"):
        train_with(DetectorRun(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
