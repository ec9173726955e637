"""FiftyOne's App on this machine only, with the operators of `dealkit/browse/plugin` in it."""

import atexit
import contextlib
import functools
import getpass
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from dealkit.browse.dataset import import_fiftyone
from dealkit.browse.find import declare_found
from dealkit.files import link_folder

ADDRESS = "127.0.0.1"
"""Where the App's server listens."""

PLUGIN = Path(__file__).with_name("plugin")
"""The folder that FiftyOne reads as a plug-in."""

_OPENED: set[int] = set()  # ports of this process


def open_app(dataset: Any, *, port: int = 5151, view: str | None = None, remote: bool = False) -> Any:
    """Open FiftyOne's App on a data set; returns its session. In a notebook it shows under the cell.

    The server listens to this machine only, whatever FiftyOne's settings say. Who reaches it may read and change the data set.
    FiftyOne does not check the Host header of a request, and there is no place to add that: visit no strange pages meanwhile.
    From another machine use ssh (`tunnel_command`); for a notebook server there, do the same or set `FIFTYONE_APP_PROXY_URL`.

    Choice: the address is passed in, since FiftyOne's own default inside a container is every network.

    Args:
        port: of the App's server.
        view: name of a saved view to start with.
        remote: serve it without opening a browser.

    Raises:
        ValueError: no saved view of that name, another program listens at the port, or the server does not start; says which.
    """
    fo = import_fiftyone()
    from fiftyone.core.service import ServiceException

    if view is not None and not dataset.has_saved_view(view):
        raise ValueError(f"view: expected one of {', '.join(dataset.list_saved_views())}; got {view!r}")
    with socket.socket() as probe:
        if port not in _OPENED and probe.connect_ex((ADDRESS, port)) == 0:
            raise ValueError(f"port: expected a free one, a program listens at {port} already: name another, such as {port + 1}")
    for warning in open_settings(fo.config):
        print(f"warning: {warning}", file=sys.stderr)
    add_plugin()
    with contextlib.suppress(ValueError):  # a field of the user's own may have the name
        declare_found(dataset)
    _OPENED.add(port)
    shown = dataset.load_saved_view(view) if view else None
    try:
        return fo.launch_app(dataset, view=shown, address=ADDRESS, port=port, remote=remote)
    except ServiceException as error:
        raise ValueError(f"port: FiftyOne's server does not answer at {port}, perhaps the machine is busy: {error}") from None


def tunnel_command(port: int) -> str:
    """What to run on another machine, so that the App at a port of this one is at the same port there.

    >>> tunnel_command(5151).split("@")[0].rsplit(" ", 1)[0]
    'ssh -N -L 5151:127.0.0.1:5151'
    """
    return f"ssh -N -L {port}:{ADDRESS}:{port} {getpass.getuser()}@{socket.gethostname()}"


def open_settings(config: Any) -> list[str]:
    """A line for each setting of FiftyOne that would let others than this machine's user reach the App."""
    warnings = []
    if config.default_app_address not in (ADDRESS, "localhost"):
        address = f"FiftyOne's setting default_app_address is {config.default_app_address}"
        warnings.append(f"{address}; this App listens at {ADDRESS} all the same")
    if config.allowed_origins:
        warnings.append(f"FiftyOne's setting allowed_origins lets pages of {config.allowed_origins} use the App")
    return warnings


@functools.cache
def add_plugin() -> Path:
    """Let FiftyOne find the operators, besides the user's own plug-ins; gives the folder of plug-ins from now on.

    Choice: a folder of links that goes with this process. The user's folder of plug-ins is not written to, and a FiftyOne that
    runs without dealkit never sees these operators.
    """
    fo = import_fiftyone()
    folder = Path(tempfile.mkdtemp(prefix="dealkit-plugins-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link_folder(folder / "dealkit", PLUGIN)
    link_folder(folder / "own", Path(fo.config.plugins_dir))
    fo.config.plugins_dir = os.environ["FIFTYONE_PLUGINS_DIR"] = str(folder)
    # the server is another process and has to find this dealkit
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGIN.parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return folder
