"""One training in several processes (ranks), started by `torchrun` or `accelerate launch`: they share every batch.

Each reads its own samples; these go round, so that all draw the same prompts, and each works on its share of the images and of
what is asked of them. Its losses are parts of those of the whole batch: summed over ranks, and so their gradients, they are what
one process has, whatever the number. Every rank then takes the same step. Rank 0 alone writes.

Choice: sums in plain sight, not a wrapper that takes means of means: a set weighs by its objects, batch norms see the whole
batch, and a prompt may come from an image of another rank.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dealkit.prompts import PointPrompts
from dealkit.train.stream import TrainingPrompts


def number() -> int:
    """Of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """Processes of this training.

    >>> count()
    1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def connected() -> Iterator[None]:
    """The processes reach each other until the end: by NCCL between GPUs, each its own, else by gloo. One process: nothing."""
    if count() == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(mine: Any) -> list[Any]:
    """What every process has, by rank; picklable."""
    every = [mine] * count()
    if count() > 1:
        dist.all_gather_object(every, mine)
    return every


class _Total(torch.autograd.Function):
    """The sum over ranks, which counts in the loss of each."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(_, gradient.contiguous())


class _SharedNorm(nn.BatchNorm2d):
    """A batch norm whose statistics in training are those of all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        sums = _Total.apply(torch.cat([values.sum((0, 2, 3)), values.new_tensor([values[:, 0].numel()])]))
        n, mean = sums[-1], sums[:-1] / sums[-1]
        centred = values - mean[:, None, None]
        variance = _Total.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_norms(model: nn.Module) -> None:
    """Let the batch norms of a model see the whole batch, in place."""
    for layer in model.modules() if count() > 1 else ():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = _SharedNorm


def add_up(parameters: Iterable[Tensor], terms: dict[str, Tensor]) -> dict[str, float]:
    """Gradients summed over ranks in place, and the sums of these scalars; in one message.

    >>> add_up([], {"loss": torch.tensor(0.5)})
    {'loss': 0.5}
    """
    if count() > 1:
        learned = [p for p in parameters if p.requires_grad]
        for p in learned:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        values = [p.grad for p in learned] + [torch.stack(list(terms.values())).detach()]
        flat = torch.cat([value.flatten() for value in values])
        dist.all_reduce(flat)
        *sums, numbers = flat.split([value.numel() for value in values])
        for p, total in zip(learned, sums, strict=True):
            p.grad.copy_(total.view_as(p))
        terms = dict(zip(terms, numbers, strict=True))
    return {name: value.item() for name, value in terms.items()}


def every_rank_has_some(drawn: TrainingPrompts) -> bool:
    """Whether each rank can have an image that was clicked; one process: whether anything was."""
    return len(drawn.clicked.image_index.unique()) >= count()


def own_part(drawn: TrainingPrompts, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The part of this rank in a batch of `size` images: numbers of its images, of its clicked sets, and of its asked sets.

    Images are dealt out in turn, those with most clicked sets first, so that all have about as much to do.
    """
    clicks = torch.bincount(drawn.clicked.image_index, minlength=size)
    images = clicks.argsort(descending=True, stable=True)[number() :: count()]
    sets = (torch.isin(index, images).nonzero()[:, 0] for index in (drawn.clicked.image_index, drawn.asked.image_index))
    return images, *sets


def pick(prompts: PointPrompts, rows: Tensor, images: Tensor) -> PointPrompts:
    """These sets of a batch, their images numbered as in `images`."""
    parts = {name: getattr(prompts, name)[rows] for name in ("points", "labels", "sizes")}
    index = (prompts.image_index[rows][:, None] == images).long().argmax(1)
    return PointPrompts(**parts, image_index=index, embedded=prompts.embedded)


def all_rows(own: Tensor, rows: Tensor, total: int) -> Tensor:
    """(total, D) of which each rank has the `rows` that are its own (m, D)."""
    return _Total.apply(own.new_zeros(total, *own.shape[1:]).index_add(0, rows.to(own.device), own))
