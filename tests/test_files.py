import errno
import hashlib
import shutil

import pytest

from deepvit_edu.files import atomic_path, check_output, file_hash, only_process_in


def test_file_appears_whole_and_nothing_else_does(tmp_path):
    with atomic_path(tmp_path / "new" / "a") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "a").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]
    assert (tmp_path / "new" / "a").read_text() == "whole"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left"), ValueError()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    (tmp_path / "a").write_text("before")
    with pytest.raises(type(error)) as raised, atomic_path(tmp_path / "a") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"
    if isinstance(error, OSError):
        assert "the disk is full" in str(raised.value)


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_hash(tmp_path, algorithm):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert file_hash(tmp_path / "a", algorithm) == hashlib.new(algorithm, b"x" * 3_000_000).hexdigest()


@pytest.mark.parametrize(("free", "expected"), [(0, OSError), (2**30, RuntimeError)])
def test_torch_tells_a_full_disk_in_its_own_way(tmp_path, monkeypatch, free, expected):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=free))
    with pytest.raises(expected, match="disk is full" if free == 0 else "unexpected pos"), atomic_path(tmp_path / "a"):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 0")


@pytest.mark.parametrize("name", ["x.json", "a/b/x.json"])
def test_an_output_that_can_be_written_is_taken_and_nothing_is_left_behind(tmp_path, name):
    assert check_output(tmp_path / name, (".json",)) == tmp_path / name
    assert check_output(tmp_path / "new" / "folder", folder=True)
    assert not list(tmp_path.iterdir())


def test_an_output_of_before_is_replaced(tmp_path):
    (tmp_path / "x.json").write_text("before")
    assert check_output(tmp_path / "x.json", (".json",)) == tmp_path / "x.json"
    assert (tmp_path / "x.json").read_text() == "before"


def test_outputs_that_cannot_be_written_are_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for path, options, message in (
        (tmp_path / "loop", {"folder": True}, "a link that leads nowhere"),
        (tmp_path / "loop" / "x.json", {}, "a link that leads nowhere"),
        ("", {}, "no name of a file"),
        ("a\x1b[1m", {}, "no name of a file"),
        (tmp_path / "file", {"folder": True}, "is a file; name a folder"),
        (tmp_path, {}, "is a folder; name a file"),
        (tmp_path / "file" / "x.json", {}, "nothing can be written below it"),
        (tmp_path / "x.txt", {"endings": (".png", ".svg")}, r"does not end in \.png or \.svg"),
        (tmp_path / "noext", {"endings": (".png",)}, r"does not end in \.png"),
        (tmp_path / ("x" * 250), {}, "choose a shorter one"),
        ("/dev/full", {}, "no ordinary file"),
        ("/proc/x", {}, "/proc cannot be written"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            check_output(path, **options)


def test_the_second_process_in_a_folder_is_told(tmp_path):
    folder = tmp_path / "run"
    told = pytest.raises(BlockingIOError, match="another process works in")
    with only_process_in(folder), told, only_process_in(folder):
        pass
    with only_process_in(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
