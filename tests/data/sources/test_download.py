"""`dealkit.data.sources.download` and `unpack` against a misbehaving local server and dangerous archives."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections import namedtuple
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

import dealkit.data.sources.download as download
from dealkit.data.sources.catalogue import SOURCES, Download
from dealkit.data.sources.download import check_source, fetch, get
from dealkit.data.sources.unpack import unpack

BODY = bytes(range(256)) * 1200  # 300 kB
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body` at any path; its attributes are how it misbehaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag = BODY, '"one"'
        self.drop_after = []  # bytes of body sent before each of the first connections is cut
        self.ranges = True
        self.errors = []  # status of the first answers
        self.asked = []  # Range headers
        self.stated = None  # Content-Length that is wrong
        self.chunked = False  # no Content-Length at all
        self.on_answer = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/data.zip"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if server.errors:
            self.send_error(server.errors.pop(0))
            return
        body, start = server.body, 0
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", server.etag)
        send = body[start:]
        cut = server.drop_after.pop(0) if server.drop_after else None
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            send = b"%x\r\n%s\r\n0\r\n\r\n" % (len(send), send)
        else:
            self.send_header("Content-Length", str(server.stated or len(body) - start))
        self.end_headers()
        self.wfile.write(send if cut is None else send[:cut])
        if server.on_answer is not None:
            server.on_answer()
        self.close_connection = True


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def quick(url, path, **options):
    return fetch(url, path, wait=0.0, **options)


# Downloads


def test_a_file_comes_whole_and_nothing_else_stays(server, tmp_path):
    text = quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == BODY and text == f"{len(BODY)} bytes, sha256 as expected"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_connection_that_breaks_half_way_goes_on_where_it_was(server, tmp_path):
    server.drop_after = [150_000, 70_000]
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert server.asked == [None, "bytes=150000-", "bytes=220000-"]


def test_any_number_of_breaks_is_survived_while_something_new_comes(server, tmp_path):
    server.drop_after = [20_000] * 14
    quick(server.url, tmp_path / "a.zip", sha256=SHA, tries=3)
    assert (tmp_path / "a.zip").read_bytes() == BODY and len(server.asked) == 15  # 14 x 20,000, then the rest of 307,200


def test_a_later_run_goes_on_with_what_an_earlier_one_left(server, tmp_path):
    server.drop_after = [100_000] + [0] * 9
    with pytest.raises(ValueError, match="100000 bytes are kept in .*a.zip.part, run again to go on"):
        quick(server.url, tmp_path / "a.zip", tries=3)
    assert (tmp_path / "a.zip.part").stat().st_size == 100_000 and not (tmp_path / "a.zip").exists()
    server.drop_after, server.asked[:] = [], []
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == BODY and server.asked == ["bytes=100000-"]


def test_a_server_that_ignores_ranges_starts_again_and_does_not_repeat_bytes(server, tmp_path):
    server.ranges, server.drop_after = False, [150_000]
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == BODY and server.asked == [None, "bytes=150000-"]


def test_a_server_that_ignores_ranges_and_always_breaks_is_given_up(server, tmp_path):
    server.ranges, server.drop_after = False, [150_000] * 99
    with pytest.raises(ValueError, match="4 tries in a row brought nothing new, the last: .*; 150000 bytes are kept"):
        quick(server.url, tmp_path / "a.zip", tries=4)
    assert len(server.asked) == 5  # the first brought something


def test_a_server_that_does_not_say_how_long_the_file_is(server, tmp_path):
    server.chunked, server.drop_after = True, [150_007]  # 7 bytes of them are the length of the chunk
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == BODY and server.asked == [None, "bytes=150000-"]


def test_a_file_that_changed_on_the_server_is_not_glued_to_the_old_part(server, tmp_path):
    server.drop_after = [100_000]

    def change():
        server.body, server.etag, server.on_answer = BODY[::-1], '"two"', None

    server.on_answer = change
    quick(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == BODY[::-1]


def test_a_part_of_another_address_is_not_gone_on_with(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"old" * 100)
    (tmp_path / "a.zip.part.json").write_text(json.dumps({"url": "http://elsewhere/a.zip", "total": 300}))
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == BODY


@pytest.mark.parametrize("state", ["", "{half", "[]"], ids=["empty", "half", "list"])
def test_a_broken_note_beside_the_part_means_a_new_start(server, tmp_path, state):
    (tmp_path / "a.zip.part").write_bytes(b"old" * 100)
    (tmp_path / "a.zip.part.json").write_text(state)
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert server.asked == [None]


def test_a_part_that_was_complete_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BODY)
    (tmp_path / "a.zip.part.json").write_text(json.dumps({"url": server.url, "total": len(BODY)}))
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert not server.asked and (tmp_path / "a.zip").read_bytes() == BODY


def test_a_part_longer_than_the_file_starts_again(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BODY + b"more")
    (tmp_path / "a.zip.part.json").write_text(json.dumps({"url": server.url}))
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_a_wrong_checksum_removes_the_file(server, tmp_path):
    with pytest.raises(ValueError, match=f"sha256 is {SHA}, expected 00.*; the file was removed, run again"):
        quick(server.url, tmp_path / "a.zip", sha256="00" * 32)
    assert not list(tmp_path.iterdir())


def test_an_md5_is_checked_where_nothing_better_is_known(server, tmp_path):
    assert quick(server.url, tmp_path / "a", md5=hashlib.md5(BODY).hexdigest()) == f"{len(BODY)} bytes, md5 as expected"
    with pytest.raises(ValueError, match="md5 is .*, expected 00; the file was removed"):
        quick(server.url, tmp_path / "b", md5="00")


def test_a_wrong_size_is_told_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(ValueError, match=f"the server has {len(BODY)} bytes, expected 5: another version"):
        quick(server.url, tmp_path / "a.zip", size=5)


def test_without_a_checksum_the_text_says_what_was_checked(server, tmp_path):
    assert quick(server.url, tmp_path / "a", size=len(BODY)).startswith(
        f"{len(BODY)} bytes as expected; no checksum is published"
    )
    assert quick(server.url, tmp_path / "b").startswith(f"{len(BODY)} bytes as the server announced; no checksum is published")


def test_a_file_that_is_there_is_checked_not_fetched(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(BODY)
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    (tmp_path / "b.zip").write_bytes(b"wrong")
    with pytest.raises(ValueError, match="the file was removed"):
        quick(server.url, tmp_path / "b.zip", sha256=SHA)
    assert not server.asked and not (tmp_path / "b.zip").exists()


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, tmp_path):
    server.errors = [503, 429, 500]
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert len(server.asked) == 4
    server.errors = [404]
    with pytest.raises(ValueError, match="the server answers 404"):
        quick(server.url, tmp_path / "b.zip")
    assert len(server.asked) == 5


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="http://127.0.0.1:9/a.zip: 2 tries in a row brought nothing new.*nothing came"):
        quick("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", tries=2)


def test_a_server_that_falls_silent_counts_as_broken(server, tmp_path):
    server.stated, server.drop_after = len(BODY), []
    silent = threading.Event()
    first = [True]

    def wait():
        if first:
            first.pop()
            silent.wait(5)

    server.body, server.on_answer = BODY[:1000], wait
    with pytest.raises(ValueError, match="1000 bytes are kept"):
        quick(server.url, tmp_path / "a.zip", timeout=0.3, tries=1)
    silent.set()


def test_too_little_room_is_told_before_the_download(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ValueError, match="needs 307200 bytes more, 1000 are free; make room and run again"):
        quick(server.url, tmp_path / "a.zip")


def test_a_disk_that_fills_up_keeps_the_part(server, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, block):
            if self.tell() + len(block) > 100_000:
                super().write(block[: 100_000 - self.tell()])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)

    monkeypatch.setattr(download, "CHUNK", 30_000)
    with monkeypatch.context() as patch:
        patch.setattr(download, "open", lambda path, mode, buffering: Full(path, mode.replace("b", "")), raising=False)
        with pytest.raises(ValueError, match="a.zip.part: the disk is full; make room and run again to go on"):
            quick(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip.part").stat().st_size == 100_000
    quick(server.url, tmp_path / "a.zip", sha256=SHA)
    assert server.asked == [None, "bytes=100000-"] and (tmp_path / "a.zip").read_bytes() == BODY


# Archives


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_zip_and_tar_give_their_files_and_no_hidden_folder_stays(tmp_path):
    members = {"a/b.txt": b"one", "c.txt": b"two"}
    assert unpack(make_zip(tmp_path / "a.zip", members | {"__MACOSX/._b": b"x"}), tmp_path / "zip") == 2
    assert unpack(make_tar(tmp_path / "a.tar.gz", members), tmp_path / "tar") == 2
    assert tree(tmp_path / "zip") == tree(tmp_path / "tar") == members


def test_pieces_of_one_archive_are_read_as_one(tmp_path):
    whole = make_tar(tmp_path / "a.tar", {"a.bin": BODY}, mode="w").read_bytes()
    pieces = [tmp_path / f"a.tar.00{i}" for i in range(3)]
    for i, piece in enumerate(pieces):
        piece.write_bytes(whole[i * 120_000 : (i + 1) * 120_000])
    assert unpack(pieces, tmp_path / "out") == 1 and tree(tmp_path / "out") == {"a.bin": BODY}


def test_unpacking_adds_to_what_is_there(tmp_path):
    for name in ("one", "two"):
        unpack(make_zip(tmp_path / f"{name}.zip", {f"images/{name}.txt": name}), tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"images/one.txt", "images/two.txt"}


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/tmp/dealkit-out.txt"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of the folder"):
        unpack(make_zip(tmp_path / "a.zip", {"good.txt": b"x", name: b"x"}), tmp_path / "in" / "out")
    with pytest.raises(ValueError, match="a.tar.gz"):
        unpack(make_tar(tmp_path / "a.tar.gz", {"good.txt": b"x", "../out.txt": b"x"}), tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("*.txt")) and not os.path.exists("/tmp/dealkit-out.txt")


def test_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc")
    with pytest.raises(ValueError, match="'link' is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(info)
    with pytest.raises(ValueError, match="'link' is a link"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_broken_archive_leaves_nothing(tmp_path):
    whole = make_zip(tmp_path / "a.zip", {"a.bin": os.urandom(1000), "b.bin": os.urandom(1000)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:1300] + bytes(100) + whole[1400:])
    (tmp_path / "b.tar.gz").write_bytes(make_tar(tmp_path / "b.tar.gz", {"a.bin": os.urandom(10_000)}).read_bytes()[:5000])
    (tmp_path / "c.zip").write_bytes(b"<html>log in first</html>")
    for name in ("a.zip", "b.tar.gz", "c.zip"):
        with pytest.raises(ValueError, match=f"{name}: cannot be unpacked"):
            unpack(tmp_path / name, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


def test_an_archive_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    make_zip(tmp_path / "a.zip", {"a.bin": bytes(10**6)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 1000))
    with pytest.raises(ValueError, match="needs 1000000 bytes more"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


# Sources


def png():
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def yolo_zip(path):
    return make_zip(path, {"classes.txt": "nut", "images/train/a.png": png(), "labels/train/a.txt": "0 0.5 0.5 0.5 0.5"})


@pytest.fixture
def make_source(monkeypatch):
    """Adds a source, read as a YOLO folder, with these downloads."""

    def make(*downloads):
        monkeypatch.setitem(SOURCES, "made", replace(SOURCES["yolo"], downloads=downloads, licence="CC0"))

    return make


def test_get_fetches_unpacks_checks_and_remembers(server, tmp_path, make_source, capsys):
    server.body = yolo_zip(tmp_path / "a.zip").read_bytes()
    server.drop_after = [len(server.body) // 2]
    make_source(Download(url=server.url))
    text, code = get("made", tmp_path / "raw")
    assert code == 0 and text.endswith("1 images, 1 objects, 0 of them ignored; nothing left out")
    assert "by downloading you accept its owners' terms (CC0)" in capsys.readouterr().out
    assert not list((tmp_path / "raw/made").rglob("*.zip")) and len(server.asked) == 2
    assert get("made", tmp_path / "raw")[1] == 0 and len(server.asked) == 2


def test_get_joins_an_archive_in_pieces(server, tmp_path, make_source):
    png_tar = make_tar(
        tmp_path / "a.tar", {"classes.txt": b"nut", "images/train/a.png": png(), "labels/train/a.txt": b""}, mode="w"
    ).read_bytes()
    half = len(png_tar) // 2
    bodies = [png_tar[:half], png_tar[half:]]
    server.body = bodies[0]
    server.on_answer = lambda: setattr(server, "body", bodies[1])
    make_source(Download(url=f"{server.url}.tar", parts=(f"{server.url}.001", f"{server.url}.002"), size=len(png_tar)))
    text, code = get("made", tmp_path / "raw")
    assert code == 0 and "1 images, 0 objects" in text


def test_get_clones_a_repository_once(tmp_path, make_source):
    origin = tmp_path / "origin.git"
    work = tmp_path / "work"
    unpack(yolo_zip(tmp_path / "a.zip"), work)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"]):
        subprocess.run(["git", "-C", str(work), *command], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(origin)], check=True)
    make_source(Download(url=origin.as_uri()))
    text, code = get("made", tmp_path / "raw")
    assert code == 0 and "1 images, 1 objects" in text
    assert get("made", tmp_path / "raw")[1] == 0
    make_source(Download(url=(tmp_path / "missing.git").as_uri()))
    with pytest.raises(ValueError, match="missing.git: git clone failed"):
        get("made", tmp_path / "raw2")
    assert not (tmp_path / "raw2/made").exists()


def test_a_source_behind_a_login_says_what_to_do_and_then_checks_the_folder(tmp_path):
    text, code = get("xview", tmp_path)
    assert code == 2
    for part in ("http://xviewdataset.org", "terms of its registration form", "train_images/*.tif", str(tmp_path / "xview")):
        assert part in text
    (tmp_path / "xview").mkdir()
    (tmp_path / "xview" / "README").write_text("x")
    text, code = get("xview", tmp_path)
    assert code == 1 and "0 images" in text and "xView_train.geojson: file: path: no such file" in text
    (tmp_path / "xview" / "xView_train.geojson").write_text('{"features": []}')
    (tmp_path / "xview" / "train_images").mkdir()
    (tmp_path / "xview" / "train_images" / "5.tif").write_bytes(png())
    text, code = get("xview", tmp_path)
    assert code == 0 and "1 images, 0 objects" in text


def test_an_unknown_source_gets_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match="visdron: no such source; did you mean visdrone?"):
        get("visdron", tmp_path)


def test_a_long_list_of_problems_is_cut(tmp_path):
    folder = tmp_path / "voc"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i}.xml").write_text("<broken")
    text, code = check_source("voc", folder)
    assert code == 1 and "left out: 30" in text and "and 10 more" in text
