"""The same function over a stream of tasks: in this process, in several, or on the machines of a Ray cluster."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from operator import length_hint
from typing import Any, Literal

Engine = Literal["processes", "ray"]

IN_FLIGHT = 4
"""Tasks per worker that are under way or wait for it: as many are in memory, however many there are."""


def map_tasks(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    *,
    workers: int = 1,
    engine: Engine = "processes",
    instead: Callable[[Any], Iterable[Any]] | None = None,
) -> Iterator[tuple[int, Any]]:
    """(number of the task, `function(task)`) for every task, as they finish.

    Processes are spawned, not forked: a fork of a process in which PyTorch has threads may hang. They end with this process,
    however it ends. What a worker of Ray was at when it died is given to another one, twice.

    Args:
        function: at the top level of a module, or a picklable object; a worker of Ray gets it once.
        tasks: what it is given; picklable.
        workers: processes, or CPUs of a local Ray; 1 process is this one.
        engine: `ray` on this machine, reached from it alone and without usage statistics, or on the cluster named by the variable
            RAY_ADDRESS, whose machines must see the same files under the same paths and have the same packages.
        instead: tasks, under the number of the one they are given, that Ray does in place of one that no worker survives.

    Raises:
        ValueError: fewer than one worker, a worker that died, or Ray is not installed.

    >>> dict(map_tasks(len, ["a", "bcd"]))
    {0: 1, 1: 3}
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    workers = min(workers, length_hint(tasks, workers))
    if engine == "processes" and workers < 2:
        for number, task in enumerate(tasks):
            yield number, function(task)
        return
    with (_ray_cluster if engine == "ray" else _process_pool)(function, max(workers, 1)) as (submit, first_of, result, died):
        left, pending = enumerate(tasks), {}
        while True:
            for number, task in islice(left, IN_FLIGHT * workers - len(pending)):
                pending[submit(task)] = number, task
            if not pending:
                return
            for future in first_of(list(pending)):
                number, task = pending.pop(future)
                try:
                    yield number, result(future)
                except died:
                    if instead is None or engine != "ray":
                        hint = "most often for want of memory; the same command goes on from here, try fewer --workers"
                        raise ValueError(f"a worker process died, {hint}") from None
                    left = chain(((number, each) for each in instead(task)), left)


Backend = tuple[Callable[[Any], Any], Callable[[list[Any]], Iterable[Any]], Callable[[Any], Any], Any]
"""Starts a task, waits for the first of several, gives the result of one; and the errors that say that its worker died."""


@contextmanager
def _process_pool(function: Callable[[Any], Any], workers: int) -> Iterator[Backend]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        yield (
            lambda task: pool.submit(function, task),
            lambda futures: wait(futures, return_when=FIRST_COMPLETED).done,
            Future.result,
            BrokenProcessPool,
        )
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this worker, which has one thread, as soon as the process that started it is gone, even if it was killed."""
    import torch  # here, so that the command line starts without it

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _ray_cluster(function: Callable[[Any], Any], workers: int) -> Iterator[Backend]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        from ray._private import ray_constants
    except ImportError:
        raise ValueError("engine ray: install Ray with `pip install -e .[ray]`") from None
    if not ray.is_initialized():
        local, stop = "RAY_ADDRESS" not in os.environ, signal.getsignal(signal.SIGTERM)
        here = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 2**27}
        here |= {"_node_ip_address": "127.0.0.1", "_system_config": {"task_oom_retries": 2}}
        if local:
            ray_constants.ENABLE_RAY_CLUSTER = False  # on Linux it would put the address of the network in place of the one given
        ray.init(**(here if local else {}), log_to_driver=False, logging_level=logging.ERROR)
        if local and (address := ray.util.get_node_ip_address()) != "127.0.0.1":
            ray.shutdown()
            raise ValueError(f"engine ray: this version of Ray would be reached at {address}; expected one of 2.40 to 2.60")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)  # Ray would end this process at once

    def run(task: Any) -> Any:  # in one thread: Ray sets OMP_NUM_THREADS to the CPUs of a task
        return function(task)

    def result(future: Any) -> Any:
        try:
            return ray.get(future)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    died = ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError
    yield ray.remote(num_cpus=1, max_retries=2)(run).remote, lambda futures: ray.wait(futures)[0], result, died
