"""`dealkit.data.sources.download` against a local server, a local repository and dangerous archives."""

import hashlib
import io
import os
import re
import subprocess
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from dealkit.data.sources.catalogue import SOURCES, Download
from dealkit.data.sources.download import check_source, fetch, get, unpack

BODY = bytes(range(256)) * 1200  # 300 kB
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(SimpleHTTPRequestHandler):
    """Serves files of a folder as a server and as the Hub does; one named `cut` ends early."""

    def log_message(self, *args):
        pass

    def end_headers(self):
        for name, value in (("ETag", '"1"'), ("X-Repo-Commit", "c" * 40)):
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source, target):
        self.server.asked.append(self.path)
        target.write(source.read()[: 1000 if self.path.endswith("cut") else None])


@pytest.fixture
def server(tmp_path):
    """Address of a server of the folder `served`, and `asked`, the paths whose content was sent."""
    (tmp_path / "served").mkdir()
    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served"))
    made.asked, made.url, made.folder = [], f"http://127.0.0.1:{made.server_port}", tmp_path / "served"
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def make_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def make_tar(path, *members):
    with tarfile.open(path, "w:gz") as file:
        for name, content, link in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), tarfile.SYMTYPE if link else tarfile.REGTYPE, link
            file.addfile(info, io.BytesIO(content))
    return path


def yolo_zip(path):
    Image.new("L", (8, 8)).save(png := io.BytesIO(), "PNG")
    return make_zip(path, {"classes.txt": "nut", "images/train/a.png": png.getvalue(), "labels/train/a.txt": "0 0.5 0.5 0.5 0.5"})


@pytest.fixture
def make_source(monkeypatch):
    """Adds a source, read as a YOLO folder, with these downloads."""
    return lambda *downloads: monkeypatch.setitem(SOURCES, "made", replace(SOURCES["yolo"], downloads=downloads, licence="CC0"))


# Downloads


@pytest.mark.parametrize("path", ["a.bin", "datasets/owner/name/resolve/main/data/a.bin"], ids=["http", "hub"])
def test_a_file_is_checked_by_what_is_known_of_it(server, tmp_path, path):
    file = server.folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(BODY)
    url, md5 = f"{server.url}/{path}", hashlib.md5(BODY).hexdigest()
    for k, (sums, said) in enumerate([({"sha256": SHA}, "sha256 as expected"), ({"md5": md5}, "md5 as expected")]):
        made, text = fetch(Download(url=url, **sums), tmp_path / f"out{k}")
        assert made.read_bytes() == BODY and text == f"{len(BODY)} bytes, {said}"
    asked = len(server.asked)
    text = fetch(Download(url=url), tmp_path / "out")[1]
    assert text.endswith(f"not checked, its sha256 is {SHA}")
    fetch(Download(url=url), tmp_path / "out")
    assert len(server.asked) == asked + 1, "what is there is not fetched again"


@pytest.mark.parametrize("path", ["a.bin", "datasets/owner/name/resolve/main/a.bin"], ids=["http", "hub"])
def test_a_wrong_checksum_or_a_refusal_leaves_no_file(server, tmp_path, path):
    file = server.folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(BODY)
    with pytest.raises(ValueError, match=rf"{path}: .*out/a\.bin: .*{SHA}"):
        fetch(Download(url=f"{server.url}/{path}", sha256="00" * 32), tmp_path / "out")
    with pytest.raises(ValueError, match=r"/missing: .*out/missing: ."):
        fetch(Download(url=f"{server.url}/{path}/missing"), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.bin")) and not (tmp_path / "out/missing").exists()


def test_a_connection_that_breaks_or_is_not_there_is_named(server, tmp_path):
    (server.folder / "cut").write_bytes(BODY)
    with pytest.raises(ValueError, match=r"/cut: .*out/cut: "):
        fetch(Download(url=f"{server.url}/cut"), tmp_path / "out")
    with pytest.raises(ValueError, match=r"127.0.0.1:9/a: "):
        fetch(Download(url="http://127.0.0.1:9/a"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


# Archives


def test_zip_and_tar_give_their_files_beside_what_is_there(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.txt").touch()
    assert unpack(make_zip(tmp_path / "a.zip", {"a/b.txt": b"one", "__MACOSX/._b": b"x"}), tmp_path / "out") == 1
    assert unpack(make_tar(tmp_path / "a.tar.gz", ("a/c.txt", b"two", "")), tmp_path / "out") == 1
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert files == {"old.txt", "a/b.txt", "a/c.txt"} and (tmp_path / "out/a/c.txt").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/tmp/dealkit-out.txt"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    for archive in (make_zip(tmp_path / "a.zip", {name: b"x"}), make_tar(tmp_path / "a.tar.gz", (name, b"x", ""))):
        with pytest.raises(ValueError, match=f"{archive.name}: .*{name!r} leads out of the folder"):
            unpack(archive, tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("*out.txt")) and not (tmp_path / "a.zip").exists()


def test_an_entry_without_a_name_is_refused(tmp_path):
    zipped = make_zip(tmp_path / "a.zip", {"NAME": b"x"})
    zipped.write_bytes(zipped.read_bytes().replace(b"NAME", b"\0AME"))  # a name ends before its first zero
    for archive in (zipped, make_tar(tmp_path / "a.tar.gz", ("", b"x", ""))):
        with pytest.raises(ValueError, match=f"{archive.name}: .*an entry has no name"):
            unpack(archive, tmp_path / "out")


def test_modes_of_unpacked_files_follow_the_umask(tmp_path):
    make_zip(tmp_path / "a.zip", {"zip/a.txt": b"x"})
    make_tar(tmp_path / "a.tar.gz", ("tar/a.txt", b"x", ""))
    before = os.umask(0o027)
    try:
        for name in ("a.zip", "a.tar.gz"):
            unpack(tmp_path / name, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {p.relative_to(tmp_path / "out").as_posix(): p.stat().st_mode & 0o777 for p in (tmp_path / "out").rglob("*")}
    assert modes == {"zip": 0o750, "zip/a.txt": 0o640, "tar": 0o750, "tar/a.txt": 0o640}


def test_links_that_lead_out_and_broken_archives_are_refused(tmp_path):
    cut = make_tar(tmp_path / "cut.tar.gz", ("a.bin", bytes(10**6), ""))
    cut.write_bytes(cut.read_bytes()[:500])
    (tmp_path / "page.zip").write_bytes(b"<html>log in first</html>")
    for archive in (make_tar(tmp_path / "link.tar.gz", ("link", b"", "/etc")), cut, tmp_path / "page.zip"):
        with pytest.raises(ValueError, match=f"{archive.name}: cannot be unpacked and was removed"):
            unpack(archive, tmp_path / "out")
        assert not archive.exists() and not (tmp_path / "out/link").is_symlink()


# Sources


def test_get_fetches_unpacks_checks_and_remembers(server, tmp_path, make_source, capsys):
    yolo_zip(server.folder / "a.zip")
    make_source(Download(url=f"{server.url}/a.zip"))
    text, code = get("made", tmp_path / "raw")
    assert code == 0 and text.endswith("1 images, 1 objects, 0 of them ignored; nothing left out")
    said = capsys.readouterr().out.splitlines()
    assert "by downloading you accept its owners' terms (CC0)" in said[0]
    assert said[1].endswith("/a.zip: no checksum or commit is known, so it is taken as it comes") and "sha256 is" in said[2]
    assert not list((tmp_path / "raw/made").rglob("*.zip"))
    assert get("made", tmp_path / "raw")[1] == 0 and len(server.asked) == 1


def test_an_archive_cannot_mark_another_download_as_done(server, tmp_path, make_source):
    marks = [f"{folder}b.zip.json" for folder in (".downloads/", ".downloads/made/", "../.downloads/made/")]
    make_zip(server.folder / "a.zip", {"images/readme": b"", **dict.fromkeys(marks[:2], b"{}")})
    yolo_zip(server.folder / "b.zip")
    make_source(*(Download(url=f"{server.url}/{name}.zip") for name in "ab"))
    assert get("made", tmp_path / "raw")[1] == 0 and server.asked == ["/a.zip", "/b.zip"]
    make_zip(server.folder / "a.zip", {marks[2]: b"{}"})
    with pytest.raises(ValueError, match="leads out of the folder"):
        get("made", tmp_path / "other")


def test_every_download_is_encrypted_and_what_is_not_pinned_is_known():
    downloads = [(key, item) for key, source in SOURCES.items() for item in source.downloads]
    assert len(downloads) >= 20 and all(item.url.startswith("https://") for _, item in downloads)
    assert {key for key, item in downloads if not item.pinned} == {"visdrone", "tinyperson", "tt100k"}
    assert all(re.fullmatch("[0-9a-f]{40}", item.commit or "") for _, item in downloads if item.url.endswith(".git"))


def test_get_clones_a_repository_once(tmp_path, make_source, capsys):
    origin = tmp_path / "origin.git"
    unpack(yolo_zip(tmp_path / "a.zip"), origin)
    commit = ["-c", "user.name=n", "-c", "user.email=e", "commit"]
    for command in (["init", "-q"], ["add", "."], [*commit, "-qm", "m"]):
        subprocess.run(["git", "-C", str(origin), *command], check=True)
    make_source(Download(url=origin.as_uri()))
    text, code = get("made", tmp_path / "raw")
    assert code == 0 and "1 images, 1 objects" in text
    assert get("made", tmp_path / "raw")[1] == 0
    head = subprocess.run(["git", "-C", str(origin), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    (origin / "labels/train/a.txt").unlink()
    subprocess.run(["git", "-C", str(origin), *commit, "-qam", "without its label"], check=True)
    make_source(Download(url=origin.as_uri(), commit=head))
    assert "1 images, 1 objects" in get("made", tmp_path / "pinned")[0] and f"commit {head}, checked" in capsys.readouterr().out
    make_source(Download(url=origin.as_uri(), commit="1" * 40))
    assert get("made", tmp_path / "pinned")[1] == 0 and f"commit {head}, expected 1111" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"origin\.git: git fetch failed"):
        get("made", tmp_path / "none")
    make_source(Download(url=(tmp_path / "missing.git").as_uri()))
    with pytest.raises(ValueError, match=r"missing\.git: git fetch failed"):
        get("made", tmp_path / "raw2")
    assert not (tmp_path / "raw2/made").exists()


def test_a_source_by_hand_says_what_to_do_and_then_checks_the_folder(tmp_path):
    text, code = get("soda-d", tmp_path)
    assert code == 2 and all(part in text for part in (SOURCES["soda-d"].page, "not stated", "Images/*.jpg", str(tmp_path)))
    (tmp_path / "soda-d").mkdir()
    (tmp_path / "soda-d" / "README").touch()
    text, code = get("soda-d", tmp_path)
    assert code == 1 and "0 images" in text and "expected Annotations/{train,val,test}.json" in text
    with pytest.raises(ValueError, match="visdron: no such source; did you mean visdrone?"):
        get("visdron", tmp_path)


def test_a_long_list_of_problems_is_cut(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.xml").write_text("<broken")
    text, code = check_source("voc", tmp_path)
    assert code == 1 and "left out: 30" in text and "and 10 more" in text
