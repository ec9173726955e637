"""Every server that a command starts listens to this machine only: what is looked at are its sockets."""

import os
import subprocess
import sys
import time

import pytest
from conftest import free_port

from dealkit.data.scenes.scene import write_coco
from dealkit.files import PROJECT_ROOT

psutil = pytest.importorskip("psutil")

LOOPBACK = {"127.0.0.1", "::1"}


def doors(process):
    """(program, address, port) of every listening socket of a process, its children, and the servers that they talk to."""
    tree = {process.pid: process, **{child.pid: child for child in process.children(recursive=True)}}
    try:
        sockets = [s for s in psutil.net_connections("tcp") if s.laddr]
    except psutil.AccessDenied:
        pytest.skip("this system shows sockets to its administrator only")
    talks = {s.raddr.port for s in sockets if s.pid in tree and s.raddr and s.raddr.ip in LOOPBACK}
    listening = [s for s in sockets if s.status == psutil.CONN_LISTEN]
    found = [(s.pid, s.laddr.ip, s.laddr.port) for s in listening if s.pid in tree or s.laddr.port in talks]
    return {(psutil.Process(pid).name() if pid else "?", ip, port) for pid, ip, port in found}


@pytest.fixture
def start():
    """Starts a command that serves; gives its process as soon as a line says where."""
    started = []

    def run(*args):
        command = [sys.executable, "-m", "dealkit", *map(str, args)]
        options = {"cwd": PROJECT_ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(psutil.Popen(command, env=os.environ | {"PYTHONUNBUFFERED": "1"}, **options))
        said = []
        while not (said and "http://" in said[-1] and "tunnel" not in said[-1]):
            said.append(started[-1].stdout.readline())
            assert said[-1], "".join(said)
        return started[-1]

    yield run
    for process in started:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["browse", "click", "serve"])
def test_a_command_listens_to_this_machine_only(command, request, start, checkpoint, tmp_path):
    coco, programs = write_coco(tmp_path / "scenes", 1, size=64, progress=False), 1
    if command == "browse":
        request.getfixturevalue("fo")  # a database of the tests, or the reason why there is none
        name = request.getfixturevalue("name")
        port, programs = free_port(), 2  # the App and its database
        process = start("browse", coco, "--name", name, "--port", port, "--remote")
        time.sleep(2)  # the App's server opens what it needs
    elif command == "click":
        process = start("click", coco.parent / "images", "--checkpoint", checkpoint, "--no-browser")
    else:
        process = start("serve", "--root", coco.parent, "--checkpoint", checkpoint, "--port", 0)
    found = doors(process)
    print(command, *sorted(found), sep="\n")
    assert len(found) >= programs and {ip for _, ip, _ in found} <= LOOPBACK, found
