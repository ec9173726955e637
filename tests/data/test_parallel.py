"""The same function over a stream of tasks: how many are in memory, what a dead worker costs, who can reach a local Ray."""

import os
import signal
import socket
from pathlib import Path

import pytest

from dealkit.data.parallel import IN_FLIGHT, map_tasks


@pytest.fixture
def ray():
    """Ray, ended after the test, so that what others write to its processes does not last."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install -e .[ray]")
    yield ray
    ray.shutdown()


def children():
    """Numbers of the processes that this one has started, and of those they have."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = file.parent.name, file.read_text().rpartition(")")[2]
        except OSError:
            continue
        parents[int(number)] = int(rest.split()[1])
    found, new = set(), {os.getpid()}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found


def listening(processes):
    """Addresses at which these processes listen for connections from other machines or this one."""
    sockets = set()
    for number in processes:
        try:
            sockets |= {os.readlink(link) for link in Path(f"/proc/{number}/fd").iterdir()}
        except OSError:
            continue
    found = set()
    for file, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", file).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                raw = bytes.fromhex(local.split(":")[0])
                words = [raw[k : k + 4][::-1] for k in range(0, len(raw), 4)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


def test_tasks_are_taken_as_they_are_needed():
    taken = []
    stream = map_tasks(str, (taken.append(n) or n for n in range(1000)))
    assert [next(stream), next(stream)] == [(0, "0"), (1, "1")] and len(taken) == 2


@pytest.mark.slow
def test_a_local_ray_is_reached_from_this_machine_alone_and_a_task_that_kills_is_replaced(ray):
    def die_of_three(task):
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 5:
            raise ValueError("five")
        return 2 * task

    before, taken, done = listening({os.getpid()}), [], {}
    for number, value in map_tasks(
        die_of_three, (taken.append(n) or n for n in range(40) if n != 5), workers=2, engine="ray", instead=lambda n: [10 * n]
    ):
        if not done:
            assert len(taken) <= 2 * IN_FLIGHT  # a stream: the others are not in memory
            assert {"127.0.0.1"} <= listening(children()) - before <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
            assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0" and not ray._common.usage.usage_lib.usage_stats_enabled()
        done[number] = value
    assert done == {n: 60 if taken[n] == 3 else 2 * taken[n] for n in range(39)}
    with pytest.raises(ValueError, match="^five$"):
        dict(map_tasks(die_of_three, [1, 5], engine="ray"))
    with pytest.raises(ValueError, match="a worker process died, most often for want of memory"):
        dict(map_tasks(die_of_three, [1, 3], engine="ray"))
