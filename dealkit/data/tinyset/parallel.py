"""The same function over many tasks: in this process, in several, or on the machines of a Ray cluster."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal

import torch

Engine = Literal["processes", "ray"]


def map_tasks(
    function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int = 1, engine: Engine = "processes"
) -> Iterator[tuple[int, Any]]:
    """(number of the task, `function(task)`) for every task, as they finish.

    Processes are spawned, not forked: a fork of a process in which PyTorch has threads may hang. They end with this process,
    however it ends.

    Args:
        function: at the top level of a module.
        tasks: what it is given; picklable.
        workers: processes, or CPUs of a local Ray; 1 process is this one.
        engine: `ray` is Ray Data: on this machine, or on the cluster named by the variable RAY_ADDRESS, whose machines must see
            the same files under the same paths and have the same packages.

    Raises:
        ValueError: fewer than one worker, a worker that died, or Ray is not installed.

    >>> dict(map_tasks(len, ["a", "bcd"]))
    {0: 1, 1: 3}
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if engine == "ray":
        yield from _map_ray(function, tasks, workers)
    elif workers == 1 or len(tasks) < 2:
        for number, task in enumerate(tasks):
            yield number, function(task)
    else:
        pool = ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn"), _end_with_parent)
        try:
            numbers = {pool.submit(function, task): number for number, task in enumerate(tasks)}
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        except BrokenProcessPool:
            hint = "most often for want of memory; the same command goes on from here, try fewer --workers"
            raise ValueError(f"a worker process died, {hint}") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this worker as soon as the process that started it is gone, even if it was killed."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _map_ray(function: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> Iterator[tuple[int, Any]]:
    try:
        import ray
        import ray.data
        from ray import cloudpickle
    except ImportError:
        raise ValueError("engine ray: install Ray Data with `pip install -e .[ray]`") from None
    if not tasks:
        return
    if not ray.is_initialized():
        local = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
        ray.init(**local, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the caller shows one

    def run(row: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(1)
        return {"number": row["number"], "result": cloudpickle.dumps(function(cloudpickle.loads(row["task"])))}

    rows = [{"number": number, "task": cloudpickle.dumps(task)} for number, task in enumerate(tasks)]
    blocks = min(len(rows), max(4 * workers, len(rows) // 16))
    for row in ray.data.from_items(rows, override_num_blocks=blocks).map(run).iter_rows():
        yield row["number"], cloudpickle.loads(row["result"])
