import argparse
import collections
import os
import pathlib
import resource
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepvit_edu.tensors import check_finite, checksum, read_pytorch, read_tensors, write_tensors
from tools.contents import ROOT

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.randn(4).bfloat16()}


def test_what_is_written_is_read(tmp_path):
    path = write_tensors(tmp_path / "x.safetensors", WEIGHTS, {"about": "a test"})
    tensors, metadata = read_tensors(path)
    assert all(torch.equal(tensors[name], value) for name, value in WEIGHTS.items())
    assert metadata["about"] == "a test"
    assert path.stat().st_mode & 0o777 == 0o644


def test_files_from_before_checksums_are_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "x.safetensors")
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")[0]["a"], WEIGHTS["a"])


def test_the_checksum_knows_names_types_shapes_and_values():
    first = checksum(WEIGHTS)
    others = ({"b": 8}, {"b": 7.0}, {"a": WEIGHTS["a"].T.contiguous()}, {"d": 1})
    assert len({first, *(checksum({**WEIGHTS, **{k: torch.as_tensor(v) for k, v in o.items()}}) for o in others)}) == 5


@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_a_flipped_bit_is_told_whoever_wrote_the_file(tmp_path, place):
    weights = {"a": torch.randn(1000)}
    torch.save(weights, tmp_path / "x.pt")
    write_tensors(tmp_path / "x.safetensors", weights, {})
    for name, read in (("x.pt", read_pytorch), ("x.safetensors", read_tensors)):
        content = bytearray((tmp_path / name).read_bytes())
        content[int(place * len(content))] ^= 1
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} (is damaged|cannot be read)"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(98.4),
        np.float32(1),
        np.int64(3),
        np.bool_(True),
        np.arange(3.0),
        np.array(["a", "b"]),
        collections.OrderedDict(top1=np.float64(81.5)),
        pathlib.PurePosixPath("runs/a"),
        pathlib.PureWindowsPath("runs/a"),
        argparse.Namespace(lr=np.float32(1), out=pathlib.PurePosixPath("runs")),
    ],
)
def test_plain_values_beside_weights_are_read(tmp_path, beside):
    torch.save({"state_dict": WEIGHTS, "beside": beside}, tmp_path / "x.pth")
    read = read_pytorch(tmp_path / "x.pth")
    assert torch.equal(read["state_dict"]["a"], WEIGHTS["a"])
    assert np.all(read["beside"] == beside)


def test_code_is_named_and_not_run(tmp_path):
    torch.save({"state_dict": os.getcwd}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"holds code \((posix|nt)\.getcwd\), which is not run"):
        read_pytorch(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "is a web page, not weights"),
        (b"\n <html><body>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a pointer of Git LFS"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("read", [read_pytorch, read_tensors])
def test_other_files_are_named_for_what_they_are(tmp_path, content, message, read):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "header", [b"{}", b"{" * 2000, b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}']
)
def test_odd_headers_are_one_sentence(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(ValueError, match="cannot be read") as told:
        read_tensors(path)
    assert "\n" not in str(told.value)


def test_a_disk_that_takes_no_more_is_an_error_of_the_system(tmp_path):
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="was not written"):
            write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_numbers_that_are_none_are_told(number):
    check_finite(WEIGHTS, "x")
    with pytest.raises(ValueError, match="x has a bad that is not all finite"):
        check_finite({**WEIGHTS, "bad": torch.tensor([1, number])}, "x")


def test_folders_and_missing_files_are_said(tmp_path):
    for read in (read_pytorch, read_tensors):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read(tmp_path / "none")
        with pytest.raises(IsADirectoryError, match="is a folder"):
            read(tmp_path)


def test_the_package_reads_safetensors_in_one_place():
    files = (ROOT / "deepvit_edu").rglob("*.py")
    readers = [path.name for path in files if "from safetensors" in path.read_text(encoding="utf-8")]
    assert readers == ["tensors.py"]
