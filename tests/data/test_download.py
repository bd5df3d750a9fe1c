"""Downloads and their faults, against a server on this machine."""

import builtins
import errno
import http.server
import io
import shutil
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from deepvit_edu import data
from deepvit_edu.data import download
from deepvit_edu.data.catalogue import SOURCES

from .archives import cifar10_files, md5, tar_of, write_images

ARCHIVE = tar_of(cifar10_files(), "cifar-10-batches-py")
NAME = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"


class Handler(http.server.BaseHTTPRequestHandler):
    """`/good` serves with ranges; other paths are the faults."""

    content = ARCHIVE
    asked: list = []  # noqa: RUF012 (set anew by the fixture)

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        fault, wanted = self.path.strip("/"), self.headers.get("Range")
        self.asked.append((fault, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and fault != "norange" else 0
        if fault == "busy":
            return self.send_error(503)
        if start >= len(self.content):
            return self.send_error(416)
        body = self.content[start:]
        if fault == "wrong":
            body = bytes(len(self.content))[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(10**15 if fault == "huge" else len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        with suppress(ConnectionError):
            self.send_body(fault, body)
        return None

    def send_body(self, fault, body):
        half = len(body) // 2
        if fault == "cut":
            self.wfile.write(body[:half])
        elif fault == "stalls":
            self.wfile.write(body[:half])
            time.sleep(1.5)
        elif fault == "slow":
            for start in range(0, len(body), 100):
                self.wfile.write(body[start : start + 100])
                time.sleep(0.02)
        else:
            self.wfile.write(body)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPVIT_EDU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(Handler, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def get(server, tmp_path):
    """Fetches the archive from these paths of the server."""

    def fetch(*faults):
        urls = [fault if ":" in fault else f"{server}/{fault}" for fault in faults]
        return download.fetch(urls, tmp_path / NAME, md5(Handler.content), progress=False)

    return fetch


def put_part(tmp_path, content):
    (tmp_path / f"{NAME}.part").write_bytes(content)


def part_size(tmp_path):
    return (tmp_path / f"{NAME}.part").stat().st_size


def test_whole_file(get, tmp_path):
    assert get("good").read_bytes() == ARCHIVE
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    get("good")
    assert len(Handler.asked) == 1  # what is there and right is not fetched again


def test_resumes_where_it_stopped(get, tmp_path):
    put_part(tmp_path, ARCHIVE[:700])
    assert get("good").read_bytes() == ARCHIVE
    assert Handler.asked == [("good", "bytes=700-")]


def test_starts_anew_where_the_server_cannot_resume(get, tmp_path):
    put_part(tmp_path, ARCHIVE[:700])
    assert get("norange").read_bytes() == ARCHIVE


@pytest.mark.parametrize("part", [ARCHIVE, b"x" * 700, b"x" * (len(ARCHIVE) + 5)], ids=["whole", "damaged", "too long"])
def test_any_part_ends_as_the_right_file(get, tmp_path, part):
    put_part(tmp_path, part)
    assert get("good").read_bytes() == ARCHIVE


def test_cut_connection_keeps_its_half_and_the_next_address_goes_on(get, tmp_path):
    assert get("cut", "good").read_bytes() == ARCHIVE
    assert Handler.asked == [("cut", None), ("good", f"bytes={len(ARCHIVE) // 2}-")]


def test_cut_connection_everywhere(get, tmp_path):
    with pytest.raises(data.DataError, match="the connection ended after") as caught:
        get("cut")
    assert "are kept" in str(caught.value)
    assert part_size(tmp_path) == len(ARCHIVE) // 2
    assert not (tmp_path / NAME).exists()
    assert get("good").read_bytes() == ARCHIVE


def test_stalled_server(get, tmp_path):
    with pytest.raises(data.DataError, match=r"sent nothing for 0\.5 s"):
        get("stalls")
    assert part_size(tmp_path) == len(ARCHIVE) // 2


def test_slow_address_is_left_for_the_next_but_the_last_is_waited_for(get, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 0.1)
    assert get("slow", "good").read_bytes() == ARCHIVE
    (first, _), (second, resumed) = Handler.asked
    assert (first, second) == ("slow", "good")
    assert resumed != "bytes=0-"
    monkeypatch.setattr(Handler, "content", ARCHIVE[:3000])
    assert get("slow").read_bytes() == ARCHIVE[:3000]


def test_wrong_hash_is_deleted(get, tmp_path):
    with pytest.raises(data.DataError, match="wrong MD5"):
        get("wrong")
    assert list(tmp_path.iterdir()) == []
    assert get("wrong", "good").read_bytes() == ARCHIVE


def test_server_error_and_no_network_are_told_with_every_address(get):
    with pytest.raises(data.DataError, match="503") as caught:
        get("busy", "http://127.0.0.1:9/none", "http://no-such-host.invalid/x")
    message = str(caught.value)
    assert message.count("http://") == 3
    assert message.count("no connection") == 2


def test_full_disk_is_seen_before(get, tmp_path):
    with pytest.raises(data.DataError, match=r"disk of .* is full .*MB are needed"):
        get("huge", "good")
    assert len(Handler.asked) == 1  # another address would not help


def test_full_disk_while_writing(get, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, block):
            raise OSError(errno.ENOSPC, "No space left on device")

    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda path, mode="r", **options: Full() if mode == "wb" else real(path, mode, **options)
    )
    with pytest.raises(data.DataError, match="is full"):
        get("good")
    assert not (tmp_path / NAME).exists()


def test_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(data.DataError, match="cannot be written"):
        download.fetch([f"{server}/good"], tmp_path / "file" / NAME, md5(ARCHIVE), progress=False)


# The whole rung


@pytest.fixture
def cifar10(server, monkeypatch):
    """Lets "cifar10" come from these paths of the server."""

    def serve(*faults, content=ARCHIVE):
        monkeypatch.setattr(Handler, "content", content)
        urls = tuple(f"{server}/{fault}" for fault in faults)
        monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], urls=urls, md5=md5(content)))

    return serve


def cached(tmp_path):
    folder = tmp_path / "cache" / "data"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def test_load_downloads_once(cifar10, tmp_path):
    cifar10("busy", "good")
    assert not data.available("cifar10")
    images = data.load("cifar10", "train", progress=False)
    assert (len(images), images.rung) == (100, "download")
    assert images.describe().endswith("from a checked download.")
    data.load("cifar10", "test", progress=False)
    assert len(Handler.asked) == 2
    assert data.available("cifar10")
    assert cached(tmp_path) == [FOLDER]


def test_several_runs_at_once_download_once(cifar10):
    cifar10("good")
    with ThreadPoolExecutor(4) as pool:
        sets = list(pool.map(lambda _: data.load("cifar10", "train", progress=False), range(4)))
    assert len({images.hash() for images in sets}) == 1
    assert len(Handler.asked) == 1


def test_root_without_the_set_falls_through_to_the_download(cifar10, tmp_path):
    cifar10("good")
    (tmp_path / "root").mkdir()
    assert data.load("cifar10", "test", root=tmp_path / "root", progress=False).rung == "download"
    assert list((tmp_path / "root").iterdir()) == []


def test_failed_load_says_what_was_tried_and_what_to_do(cifar10, tmp_path):
    cifar10("busy", "cut")
    with pytest.raises(data.DataError) as caught:
        data.load("cifar10", "test", root=tmp_path, progress=False)
    for word in ("/busy", "503", "/cut", "are kept", str(tmp_path), "the cache", "DEEPVIT_EDU_DATA", "shapes"):
        assert word in str(caught.value)
    assert not data.available("cifar10")


def test_cut_archive_with_the_right_hash_leaves_nothing(cifar10, tmp_path):
    cifar10("good", content=ARCHIVE[: len(ARCHIVE) // 2])
    with pytest.raises(data.DataError, match="cut or damaged"):
        data.load("cifar10", "test", progress=False)
    assert cached(tmp_path) == []


@pytest.mark.parametrize("content", [b"not an archive", tar_of({"x": b"1"}, "other")], ids=["no tar", "other layout"])
def test_other_archives(cifar10, tmp_path, content):
    cifar10("good", content=content)
    with pytest.raises(data.DataError, match=r"cut or damaged|holds no folder"):
        data.load("cifar10", "test", progress=False)
    assert cached(tmp_path) == []


def test_archive_that_would_write_elsewhere_is_refused(cifar10, tmp_path):
    cifar10("good", content=tar_of({"../outside": b"1", f"{FOLDER}/test_batch": b"1"}, ""))
    with pytest.raises(data.DataError, match="outside"):
        data.load("cifar10", "test", progress=False)
    assert not list(tmp_path.rglob("outside"))


def test_disk_that_fills_while_unpacking_keeps_the_archive(cifar10, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    cifar10("good")
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", full)
        with pytest.raises(data.DataError, match="is full"):
            data.load("cifar10", "test", progress=False)
    assert cached(tmp_path) == [NAME]
    assert not data.available("cifar10")
    assert len(data.load("cifar10", "test", progress=False)) == 20
    assert len(Handler.asked) == 1


def test_imagenette_unpacks_to_folders(server, tmp_path, monkeypatch):
    folder = write_images(tmp_path / "made", splits=("train", "val"), count=2, size=(40, 30), suffix=".JPEG")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.JPEG")}
    content = tar_of(files, "imagenette2-160")
    monkeypatch.setattr(Handler, "content", content)
    source = replace(SOURCES["imagenette"], urls=(f"{server}/good",), md5=md5(content))
    monkeypatch.setitem(SOURCES, "imagenette", source)
    images = data.load("imagenette", "test", progress=False)
    assert images.images.shape == (4, 3, 160, 160)
    assert (images.name, images.rung, images.split) == ("Imagenette", "download", "test")


def test_the_catalogue_is_that_of_torchvision():
    from torchvision.datasets import CIFAR10, CIFAR100, Imagenette

    for name, other in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        assert SOURCES[name].md5 == other.tgz_md5
        assert SOURCES[name].unpacked == other.base_folder
        assert SOURCES[name].urls[-1] == other.url  # the original host comes last
    assert (SOURCES["imagenette"].urls[-1], SOURCES["imagenette"].md5) == Imagenette._ARCHIVES["160px"]
    assert all(Path(url).name == source.archive for source in SOURCES.values() for url in source.urls)


def test_progress_is_shown_and_can_be_switched_off(get, tmp_path, server, capsys):
    download.fetch([f"{server}/good"], tmp_path / NAME, md5(ARCHIVE), progress=True)
    assert NAME in capsys.readouterr().err
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / NAME).unlink()
    get("good")
    assert capsys.readouterr().err == ""
