"""What one of two training processes does; a module of its own, so that a fresh process can import it."""

import os
import signal

import pytest
import torch

import dealkit.device
import dealkit.train.loop
from dealkit.train.deal import fit
from dealkit.train.stream import TrainingStream


def train_in_parts(rank, ports, run, folder):
    """What one of two processes does: a run, one that is stopped and goes on, and one that a signal to this one ends."""
    dealkit.device.bf16_is_faster = lambda device: False
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    left = iter(ports)

    def train(name, **options):
        os.environ["MASTER_PORT"] = str(next(left))  # of its own: each connects anew
        return fit(run, folder / name, **options)

    read, get = [], TrainingStream.__getitem__
    TrainingStream.__getitem__ = lambda stream, index: read.append(index) or get(stream, index)
    train("whole")
    assert {index % 4 // 2 for index in read} == {rank} and len(read) == 8  # each reads its own half of four batches of four
    train("parts", stop_at=2)
    train("parts", resume=True)
    update = dealkit.train.loop.update_average

    def stops(average, model, step, decay):
        if (rank, step) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        update(average, model, step, decay)

    dealkit.train.loop.update_average = stops
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 4"):
        train("stopped", validate=lambda model: {"validated": float(rank)})
    dealkit.train.loop.update_average = update
    history = train("stopped", resume=True, validate=lambda model: {"validated": float(rank)})
    assert [line["validated"] for line in history if "validated" in line] == [0.0] * (rank == 0)
