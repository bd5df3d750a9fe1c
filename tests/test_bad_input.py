"""Every command line of `bad_input.py` ends in one sentence: no traceback, no hang, no half file."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepvit_edu.cli import main
from tests.bad_input import Line, command_lines, make_files

LINES = list(command_lines())
LONGEST_SECONDS = 20
"""For one line; most take some hundredths, and a busy machine is many times slower."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad_input")
    make_files(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_the_table_is_long() -> None:
    assert len({str(line) for line in LINES}) >= 300


@pytest.mark.parametrize("line", LINES, ids=str)
def test_bad_input_is_one_sentence(place, monkeypatch, capsys, line: Line) -> None:
    monkeypatch.chdir(place)
    for name, value in line.variables.items():
        monkeypatch.setenv(name, value)
    before, started = files_below(place), time.monotonic()
    try:
        status = main(line.arguments)
    except SystemExit as stop:  # of argparse
        status = stop.code
    said = capsys.readouterr().err
    assert status in (1, 2)
    assert "deepvit-edu" in said
    assert line.about in said.replace("-", "_")
    assert said.isprintable() or "\x1b" not in said
    if status == 1:
        assert said.count("\n") == 1
        assert len(said) < 1000
    assert files_below(place) == before
    assert time.monotonic() - started < LONGEST_SECONDS


# The same as real processes: a closed pipe, a full disk, and a terminal without signs need one.

AS_PROCESSES = LINES[:: len(LINES) // 26]


def run(place: Path, arguments: tuple[str, ...], variables: dict[str, str], **streams) -> subprocess.CompletedProcess:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(place), "OMP_NUM_THREADS": "1", **variables}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", "deepvit_edu", *arguments]
    streams = {"stdout": subprocess.PIPE, **streams}
    return subprocess.run(command, cwd=place, env=environment, stderr=subprocess.PIPE, timeout=120, **streams)


@pytest.mark.parametrize(
    "line", [line for line in AS_PROCESSES if not any("\0" in word for word in line.arguments)], ids=str
)
@pytest.mark.slow
def test_bad_input_of_a_process_is_one_sentence(place, line: Line) -> None:
    done = run(place, line.arguments, line.variables)
    assert done.returncode in (1, 2)
    assert b"Traceback" not in done.stderr
    assert b"deepvit-edu" in done.stderr


def test_a_pipe_that_is_closed_ends_without_a_word(place) -> None:
    command = f"'{sys.executable}' -m deepvit_edu models | true"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("closed", "status"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("<&- >&- 2>&-", 0)])
def test_streams_that_are_closed_are_no_fault(place, closed, status) -> None:
    command = f"'{sys.executable}' -m deepvit_edu models vit_16b {closed}; echo $? > '{place}/status'"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, timeout=120)
    assert (int((place / "status").read_text()), done.stderr) == (status, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to write to")
def test_a_full_disk_is_told(place) -> None:
    with open("/dev/full", "w") as full:
        done = run(place, ("models", "vit_16b"), {}, stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"deepvit-edu: No space left on device\n"


def test_a_warning_is_a_sentence_too(place) -> None:
    folder = place / "noted"
    for split in ("train", "test"):
        (folder / split / "a").mkdir(parents=True)
        (folder / split / "a" / "a.png").write_bytes((place / "fine" / split / "a" / "a.png").read_bytes())
    (folder / "train" / "a" / "a.heic").write_bytes(b"")
    done = run(place, ("data", "noted"), {})
    assert done.returncode == 0
    told = b"deepvit-edu: 1 files of noted/train are left out, no kind of picture that is read (noted/train/a/a.heic)\n"
    assert told in done.stderr.replace(b"\r", b"")
    assert b"warnings.warn" not in done.stderr


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}])
def test_output_that_is_not_utf8_still_tells_the_numbers(place, variables) -> None:
    done = run(place, ("data", "fine"), {"PYTHONCOERCECLOCALE": "0", **variables})
    assert done.returncode == 0
    assert b"8 ? 8" in done.stdout or "8 × 8".encode() in done.stdout
