import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deepvit_edu import assets
from deepvit_edu.assets import AssetError, asset_folder, asset_path
from deepvit_edu.files import file_hash

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as if installed from a wheel: an index with one asset, and a server that has it."""
    served = tmp_path / "served" / "records"
    served.mkdir(parents=True)
    (served / "a.json").write_text('{"a": 1}')
    index = tmp_path / "assets.json"
    index.write_text(
        json.dumps({"url": "http://127.0.0.1:9", "sha256": {"records/a.json": file_hash(served / "a.json")}})
    )
    monkeypatch.setattr(assets, "PACKAGE", tmp_path / "site-packages" / "deepvit_edu")
    monkeypatch.setattr(assets, "INDEX", index)
    monkeypatch.setenv("DEEPVIT_EDU_CACHE", str(tmp_path / "cache"))
    assets._index.cache_clear()
    handler = lambda *arguments: _Quiet(*arguments, directory=tmp_path / "served")  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DEEPVIT_EDU_ASSETS", f"http://127.0.0.1:{server.server_port}")
    yield served / "a.json"
    server.shutdown()
    server.server_close()
    assets._index.cache_clear()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_checkout_serves_its_own_files(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "PACKAGE", tmp_path / "deepvit_edu")
    (tmp_path / "book" / "records").mkdir(parents=True)
    (tmp_path / "book" / "records" / "a.json").write_text("{}")
    assert asset_path("records/a.json") == tmp_path / "book" / "records" / "a.json"


def test_downloaded_once_then_cached(installed, monkeypatch):
    path = asset_path("records/a.json")
    assert path.read_text() == '{"a": 1}'
    monkeypatch.setenv("DEEPVIT_EDU_ASSETS", "http://127.0.0.1:9")
    assert asset_path("records/a.json") == path


def test_a_folder_is_fetched_whole(installed):
    folder = asset_folder("records")
    assert [path.name for path in folder.iterdir()] == ["a.json"]
    with pytest.raises(AssetError, match="no folder of assets 'weights'"):
        asset_folder("weights")


def test_damaged_cache_is_fetched_again(installed):
    path = asset_path("records/a.json")
    path.write_text("half")
    assert asset_path("records/a.json").read_text() == '{"a": 1}'


def test_wrong_content_is_refused_and_not_kept(installed, tmp_path):
    installed.write_text('{"a": 2}')
    with pytest.raises(AssetError, match="is not the file that this version"):
        asset_path("records/a.json")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_no_network_says_what_to_do(installed, monkeypatch):
    monkeypatch.setenv("DEEPVIT_EDU_ASSETS", "http://127.0.0.1:9")
    with pytest.raises(AssetError, match=r"could not be reached .* clone the book's repository"):
        asset_path("records/a.json")


@pytest.mark.parametrize("blocked", ["cache", "cache/assets/records/a.json/x"])
def test_a_cache_that_cannot_be_written_is_named(installed, tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("")
    with pytest.raises(AssetError, match=r"cannot be written .*name another folder in DEEPVIT_EDU_CACHE"):
        asset_path("records/a.json")


def test_a_server_that_never_ends_is_left(installed, monkeypatch):
    monkeypatch.setattr(assets, "LARGEST", 3)
    with pytest.raises(AssetError, match="sends more than"):
        asset_path("records/a.json")
    monkeypatch.setattr(assets, "LARGEST", 2**20)
    monkeypatch.setattr(assets, "LONGEST_SECONDS", -1)
    with pytest.raises(AssetError, match=r"could not be reached .it had not sent all"):
        asset_path("records/a.json")


def test_empty_variables_count_as_not_set(installed, monkeypatch):
    monkeypatch.setenv("DEEPVIT_EDU_CACHE", "")
    assert assets.cache_folder().name == "deepvit_edu"
    monkeypatch.setenv("DEEPVIT_EDU_ASSETS", "")
    monkeypatch.setenv("DEEPVIT_EDU_CACHE", str(installed.parent / "cache"))
    with pytest.raises(AssetError, match=r"http://127\.0\.0\.1:9/records"):
        asset_path("records/a.json")


def test_without_a_home_the_variable_is_named(monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(AssetError, match="name a folder for downloads in DEEPVIT_EDU_CACHE"):
        assets.cache_folder()


def test_unknown_asset_names_the_nearest(installed):
    with pytest.raises(AssetError, match=r"no asset 'records/b\.json'; did you mean 'records/a\.json'"):
        asset_path("records/b.json")


def test_index_is_fresh():
    check = subprocess.run(
        [sys.executable, "-m", "tools.book.assets", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr
