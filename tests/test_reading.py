import json
import os

import pytest

from deepvit_edu.reading import UnreadableError, read_json, reading


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RecursionError("maximum recursion depth"), "x.bin cannot be read: it is nested too deeply; fetch it"),
        (MemoryError(), "x.bin cannot be read: it needs more memory"),
        (KeyError("epochs"), "x.bin cannot be read: it lacks 'epochs'"),
        (OverflowError("too\nlarge\x1b[31m"), r"x.bin cannot be read: too large\\x1b\[31m; fetch it"),
        (AssertionError(), "x.bin cannot be read: AssertionError"),
        (OSError("cannot identify image file"), "x.bin cannot be read: cannot identify"),
    ],
)
def test_anything_that_goes_wrong_is_one_sentence(error, message):
    with pytest.raises(UnreadableError, match=message) as told, reading("x.bin", "fetch it"):
        raise error
    assert "\n" not in str(told.value)


def test_what_is_told_already_and_what_the_system_says_stay_as_they_are(tmp_path):
    with pytest.raises(UnreadableError, match=r"^as it is$"), reading("x"):
        raise UnreadableError("as it is")
    with pytest.raises(FileNotFoundError), reading("x"):
        (tmp_path / "none").read_text()
    with pytest.raises(KeyboardInterrupt), reading("x"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_devices_and_pipes_are_not_read(tmp_path, device):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for path in (pipe, device):
        with pytest.raises(UnreadableError, match="is a device or a pipe; name a file"):
            read_json(path)


def test_long_messages_are_cut():
    with pytest.raises(UnreadableError) as told, reading("x"):
        raise ValueError("a" * 10**6)
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '{"a": NaN}', "[Infinity]"])
def test_what_is_no_json_is_told(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UnreadableError, match=r"x\.json cannot be read"):
        read_json(path)


def test_json_with_a_byte_order_mark_is_read_and_another_encoding_told(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": 1}), encoding="utf-8-sig")
    assert read_json(path) == {"a": 1}
    path.write_text('{"a": "ä"}', encoding="latin-1")
    with pytest.raises(UnreadableError, match="not UTF-8 text"):
        read_json(path)
