"""Training: one loop on one screen, averaged weights, atomic checkpoints, exact resume.

`B` images, `N` prompt sets. A run is its `RunConfig`; its folder holds `config.json`, `log.jsonl`, `state.pt` (to resume) and
`model.safetensors` (averaged weights with the model's config, to use).
"""

import copy
import json
import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dealkit.config import DetectorRun, RunConfig, TrainConfig, to_dict
from dealkit.data.coco import Sample
from dealkit.device import default_device
from dealkit.files import provenance, read_json_lines, write_atomically, write_json, write_text, writing
from dealkit.jobs import locked, remove_strays, stop_request
from dealkit.model.checkpoint import Model, load_state, save_model
from dealkit.model.encoder import Backbone, LiteBackbone
from dealkit.model.lite import LITE
from dealkit.train import ranks
from dealkit.train.stream import TrainingStream


def progress(step: int, minutes: float, config: TrainConfig) -> float:
    """Share of the schedule that is used up, 0 to 1: by steps or by minutes, whichever is further."""
    by_time = minutes / config.max_minutes if config.max_minutes > 0 else 0.0
    return min(max(step / config.steps, by_time), 1.0)


def learning_rate(step: int, done: float, config: TrainConfig) -> float:
    """Linear warm-up over `config.warmup` steps, then a cosine down to 1 % at `done` = 1.

    >>> round(learning_rate(0, 0.0, TrainConfig(lr=1.0, warmup=10)), 3), round(learning_rate(500, 1.0, TrainConfig(lr=1.0)), 3)
    (0.1, 0.01)
    """
    warm = min((step + 1) / max(config.warmup, 1), 1.0)
    return config.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(model: torch.nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW groups: matrices and kernels decay; biases, norms and gains do not. A backbone with ImageNet weights learns at
    `backbone_lr` of the rate."""
    known = model.config.pretrained or (model.config.backbone in LITE and model.config.frozen)
    backbones = [part for part in model.modules() if isinstance(part, Backbone | LiteBackbone)]
    of_backbone = {id(p) for part in backbones for p in part.parameters()}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            groups.setdefault((known and id(p) in of_backbone, p.ndim > 1), []).append(p)
    return [
        {"params": params, "weight_decay": config.weight_decay * decays, "share": config.backbone_lr if slow else 1.0}
        for (slow, decays), params in groups.items()
    ]


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of weights and batch-norm statistics; a shorter one during the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for a, m in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if a.is_floating_point():
            a.lerp_(m, 1 - decay)
        else:
            a.copy_(m)


def training_loop(
    config: RunConfig | DetectorRun,
    out: Path,
    make_model: Callable[[], Model],
    loss_terms: Callable[[Model, list[Sample], torch.Generator, Model, float], dict[str, Tensor]],
    *,
    resume: bool = False,
    validate: Callable[[Model], dict[str, float]] | None = None,
    stop_at: int | None = None,
) -> list[dict[str, float]]:
    """The loop that every model of this library is trained by; returns its log, one dict per line of `log.jsonl`.

    In several processes (`dealkit.train.ranks`) each calls it; a batch is that of all of them, and rank 0 alone writes.

    Args:
        config: what `config.json` keeps; `config.data` and `config.train` are read here. out: folder of the run.
        make_model: gives the model to train, once, after seeding; its `config` goes into the checkpoint.
        loss_terms: of model, samples, random source, averaged model and share of the schedule that is used up; gives the terms
            whose sum, over ranks, too, is the loss, float32 scalars, or an empty dict to pass the batch over, on all ranks.
        resume: continue the run in `out`: weights, average, optimizer, random state and place in the data are restored, so
            that the losses are those of an uninterrupted run.
        validate: called with the averaged model every `evaluate_every` steps and at the end; its numbers join the log.
        stop_at: leave after this step as a kill would, but with a checkpoint.

    Raises:
        ValueError: `out` holds a run and `resume` is not set, or holds none and it is, or another process trains in it; nothing
            is overwritten. A batch that the processes cannot share evenly.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the step is finished and the state written, and the text says how to go on.
        FloatingPointError: a loss is not finite; names term, step and images.
    """
    out = Path(out)
    if (out / "state.pt").exists() != resume:
        state = "holds no state.pt to resume" if resume else "already holds a run; resume it or choose another folder"
        raise ValueError(f"{out}: {state}")
    if config.train.batch_size % ranks.count():
        raise ValueError(f"train.batch_size {config.train.batch_size}: expected a multiple of the {ranks.count()} processes")
    with nullcontext() if ranks.number() else locked(out), ranks.connected():
        return _train(config, out, make_model, loss_terms, resume, validate, stop_at)


def _train(
    config: RunConfig | DetectorRun,
    out: Path,
    make_model: Callable[[], Model],
    loss_terms: Callable[[Model, list[Sample], torch.Generator, Model, float], dict[str, Tensor]],
    resume: bool,
    validate: Callable[[Model], dict[str, float]] | None,
    stop_at: int | None,
) -> list[dict[str, float]]:
    """The loop; `training_loop` says of what. Nothing is written before everything is read."""
    train, device, leads = config.train, default_device(), ranks.number() == 0
    if leads:
        remove_strays(out)
    validate = validate if leads else None
    torch.manual_seed(train.seed)
    model = make_model().to(device).train()
    ranks.share_norms(model)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model, train), lr=train.lr, fused=True)
    clicks = torch.Generator().manual_seed(train.seed)
    step, minutes, history, recent = 0, 0.0, [], []
    stream = TrainingStream(config.data, train.seed, train.steps * train.batch_size)
    if resume:
        state = load_state(out / "state.pt", {"model": model, "average": average, "optimizer": optimizer}, device)
        step, minutes, recent = state["step"], state["minutes"], state.get("recent", [])
        clicks.set_state(state["clicks"].cpu())
        torch.set_rng_state(state["rng"].cpu())
        history = [line for line in read_log(out) if line["step"] <= step]
        if progress(step, minutes, train) >= 1:  # finished: nothing to add
            return history
    if leads:
        write_json(out / "config.json", {**to_dict(config), "made_by": provenance()})
        write_text(out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in history))
    board = tensorboard(out) if leads else None

    own = train.batch_size // ranks.count()
    starts = (s * train.batch_size + ranks.number() * own for s in range(step, train.steps))
    loader = DataLoader(
        stream,
        batch_sampler=(range(start, start + own) for start in starts),
        num_workers=config.data.workers,
        collate_fn=list,
        prefetch_factor=4 if config.data.workers else None,
        worker_init_fn=set_up_worker,
    )
    started, minutes_before, seen, stopped = time.monotonic(), minutes, 0, False
    whole, before = train.steps * train.batch_size, step * train.batch_size
    bar = tqdm(total=whole, initial=before, unit="img", smoothing=0.05, mininterval=5, disable=not leads)
    with stop_request() as stop:
        for read in loader:
            parts, times, asked = zip(*ranks.gather((read, minutes, stop.is_set())), strict=True)
            samples, stopped = [sample for part in parts for sample in part], any(asked)
            done = progress(step, times[0], train)
            if done >= 1 or step == stop_at or stopped:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * learning_rate(step, done, train)
            if terms := loss_terms(model, samples, clicks, average, done):
                for name, value in terms.items():
                    if not torch.isfinite(value):
                        images = [(s.source, s.image_id) for s in samples]
                        raise FloatingPointError(f"{name} is {value.item()} at step {step}, images {images}")
                optimizer.zero_grad(set_to_none=True)
                loss = torch.stack(list(terms.values())).sum()
                loss.backward()
                numbers = ranks.add_up(model.parameters(), {**terms, "loss": loss})
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip)
                optimizer.step()
                update_average(average, model, step, train.ema_decay)
                recent.append({**numbers, "norm": norm.item()})
            step, seen = step + 1, seen + len(samples)
            minutes = minutes_before + (time.monotonic() - started) / 60
            bar.update(len(samples))
            last = progress(step, minutes, train) >= 1 or step == stop_at
            if recent and (step % train.log_every == 0 or last):
                line = {"step": step, "minutes": round(minutes, 3), "lr": learning_rate(step, done, train)}
                line |= {k: sum(r[k] for r in recent) / len(recent) for k in recent[0]}
                line["img_per_s"] = seen / (time.monotonic() - started)
                append_log(out, history, line, board)
                bar.set_postfix(loss=f"{line['loss']:.3f}", lr=f"{line['lr']:.1e}", refresh=False)
                recent = []
            if step % train.checkpoint_every == 0:
                save_state(out, model, average, optimizer, step, minutes, clicks, recent)
            if validate and train.evaluate_every and step % train.evaluate_every == 0 and not last:
                append_log(out, history, {"step": step, "minutes": round(minutes, 3), **validate(average)}, board)
        bar.close()
        save_state(out, model, average, optimizer, step, minutes, clicks, recent)
        ranks.gather(None)  # no rank leaves before the state is written
    if stopped and progress(step, minutes, train) < 1:
        said = f"stopped after step {step} of {train.steps}; `python -m dealkit train --out {out} --resume` goes on"
        raise KeyboardInterrupt(said)
    if validate and step != stop_at:
        append_log(out, history, {"step": step, "minutes": round(minutes, 3), **validate(average)}, board)
    return history


def set_up_worker(_: int) -> None:
    """Set-up of a process that prepares data; at module level, so that macOS can send it to a fresh process.

    It has one thread, and what stops the training leaves it at work: the loop ends it after the step.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def save_state(
    out: Path,
    model: Model,
    average: Model,
    optimizer: torch.optim.Optimizer,
    step: int,
    minutes: float,
    clicks: torch.Generator,
    recent: list[dict[str, float]],
) -> None:
    """Write `model.safetensors` and `state.pt`, each in one move: a kill leaves the old or the new file. Rank 0 does."""
    if ranks.number():
        return
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "minutes": minutes,
        "clicks": clicks.get_state(),
        "recent": recent,
        "rng": torch.get_rng_state(),
    }
    save_model(average, out / "model.safetensors")
    write_atomically(out / "state.pt", lambda file: torch.save(state, file))


def read_log(out: Path) -> list[dict[str, float]]:
    """Lines of a run's `log.jsonl`; a last line cut by a kill is left out."""
    return list(read_json_lines(Path(out) / "log.jsonl"))


def append_log(out: Path, history: list[dict[str, float]], line: dict[str, float], board: Any) -> None:
    history.append(line)
    if ranks.number():
        return
    with writing(out / "log.jsonl"), open(out / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    if board is not None:
        for name, value in line.items():
            board.add_scalar(name, value, line["step"])


def tensorboard(out: Path) -> Any:
    """A TensorBoard writer if the package is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(out / "tensorboard")
