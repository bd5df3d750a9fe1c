"""Recorded runs: one JSON object per run, written whole or not at all, and never by hand."""

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .environment import variable
from .files import atomic_path
from .options import is_number
from .reading import read_json, reason
from .words import align

Record = dict

# Field: the type of its value. `curves` maps a quantity to one number per epoch; `config` holds model and recipe.
FIELDS: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "num_parameters": int,
    "dataset": str,
    "rung": str,
    "data_hash": str,
    "train_images": int,
    "test_images": int,
    "seed": int,
    "epochs": int,
    "train_loss": float,
    "test_loss": float,
    "test_accuracy": float,
    "curves": dict,
    "seconds": float,
    "images_per_second": float,
    "hardware": str,
    "versions": dict,
    "commit": str,
    "code_hash": str,
    "config": dict,
    "started": str,
}
MEASUREMENT_FIELDS: dict[str, type] = {
    "kind": str,
    "command": str,
    "rows": list,
    "hardware": str,
    "versions": dict,
    "commit": str,
    "code_hash": str,
    "started": str,
}
PACKAGE = Path(__file__).resolve().parent


def validate_record(record: Record) -> Record:
    """Returns the record if it has every field, of the right type, with curves of one length.

    Raises:
        ValueError: naming the field that is missing or wrong.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a record is a JSON object, not a {type(record).__name__}")
    for field, kind in FIELDS.items():
        if field not in record:
            raise ValueError(f"the record has no field '{field}'; records are written by a run, not by hand")
        if not isinstance(record[field], kind) or isinstance(record[field], bool):
            raise ValueError(f"the record's '{field}' is a {type(record[field]).__name__}, not a {kind.__name__}")
        if isinstance(record[field], int | float) and not is_number(record[field]):
            raise ValueError(f"the record's '{field}' is {record[field]}, which is not a finite number")
    _check_curves(record["curves"])
    if not 0 <= record["test_accuracy"] <= 1:
        raise ValueError(f"test_accuracy is {record['test_accuracy']}; it is a fraction from 0 to 1")
    last = record["curves"].get("test_accuracy", [record["test_accuracy"]])[-1:]
    if last != [record["test_accuracy"]]:
        raise ValueError(
            f"test_accuracy is {record['test_accuracy']} and its curve ends with {last}; records are not edited"
        )
    lengths = {name: len(curve) for name, curve in record["curves"].items()}
    rows = lengths.get("images", record["epochs"]) if _evaluated_by_images(record) else record["epochs"]
    if set(lengths.values()) != {rows}:
        raise ValueError(f"every curve needs {rows} numbers, one for each evaluation; the record has {lengths}")
    return record


def _check_curves(curves: dict) -> None:
    for name, curve in curves.items():
        if not isinstance(curve, list) or not all(map(is_number, curve)):
            raise ValueError(f"the record's curve '{name}' is not a list of finite numbers; records are not edited")


def _evaluated_by_images(record: Record) -> bool:
    """Whether evaluations came after a number of images instead of after each epoch."""
    return bool(record["config"].get("recipe", {}).get("evaluate_every"))


def images_until(record: Record, accuracy: float) -> int | None:
    """After how many training images the test accuracy (a fraction) was first reached; None if it never was.

    It is as fine as the evaluations are.
    """
    evaluations = zip(images_seen(record), record["curves"]["test_accuracy"], strict=True)
    return next((images for images, reached in evaluations if reached >= accuracy), None)


def images_seen(record: Record) -> list[int]:
    """After how many training images each evaluation took place; records that have no such curve count in epochs."""
    curves = record["curves"]
    return curves.get("images", [epoch * record["train_images"] for epoch in curves.get("epoch", [])])


def save_record(record: Record, path: str | Path) -> Path:
    """Writes a valid record as JSON, atomically; returns the path."""
    validate_record(record)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    return Path(path)


def load_record(path: str | Path) -> Record:
    """Reads and validates a record.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a record; the message names the file and what is wrong.
    """
    try:
        return validate_record(read_json(path))
    except OSError:
        raise
    except Exception as error:  # a record can hold anything, and so can what it breaks
        raise ValueError(f"{path} is not a record of a run: {reason(error)}") from error


def list_records(folder: str | Path) -> list[tuple[Path, Record]]:
    """Every record in a folder, by name; where it has none itself, those of the folders in it (a plan's sections)."""
    paths = sorted(Path(folder).glob("*.json")) or sorted(Path(folder).rglob("*_s[0-9]*.json"))
    return [(path, load_record(path)) for path in paths if not any(p.startswith(".") for p in path.parts[-4:])]


def save_measurement(path: str | Path, kind: str, command: str, rows: list[dict], **more: object) -> Path:
    """Writes a measurement that is not a training run (a benchmark, an exactness table) as JSON, atomically.

    Args:
        path: of the file; by custom `book/records/measurements/NAME.json`.
        kind: what was measured, in a word.
        command: the command that repeats it.
        rows: the numbers, one flat dictionary a row.
        more: whatever else a reader must know, JSON-able; also "hardware", where that is not the processor.

    Raises:
        ValueError: when there are no rows, or a number in them is not finite.
    """
    measurement = {
        "kind": kind,
        "command": command,
        "rows": rows,
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": describe_versions(),
        "commit": describe_commit(),
        "code_hash": code_hash(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **more,
    }
    validate_measurement(measurement)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(measurement, indent=1, sort_keys=True, allow_nan=False) + "\n", "utf-8")
    return Path(path)


def validate_measurement(measurement: dict) -> dict:
    """Returns the measurement if it has every field, of the right type; ValueError naming the one that is wrong."""
    if not isinstance(measurement, dict):
        raise ValueError(f"a measurement is a JSON object, not a {type(measurement).__name__}")
    for field, kind in MEASUREMENT_FIELDS.items():
        if not isinstance(measurement.get(field), kind):
            raise ValueError(f"the measurement's '{field}' is missing or not a {kind.__name__}")
    if not measurement["rows"] or not all(isinstance(row, dict) for row in measurement["rows"]):
        raise ValueError("a measurement has at least one row, and each is an object")
    return measurement


def load_measurement(path: str | Path) -> dict:
    """Reads and validates what `save_measurement` wrote.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a measurement; the message names the file and what is wrong.
    """
    try:
        return validate_measurement(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a measurement: {error}") from error


def table(records: Iterable[tuple[Path, Record]]) -> str:
    """A plain-text table, one line a record."""
    rows = [("record", "model", "data", "seed", "epochs", "test accuracy", "minutes", "hardware")]
    for path, r in records:
        accuracy, minutes = f"{r['test_accuracy']:.2%}", f"{r['seconds'] / 60:.1f}"
        rows.append(
            (path.stem, r["model"], r["dataset"], str(r["seed"]), str(r["epochs"]), accuracy, minutes, hardware_of(r))
        )
    return align(rows)


def hardware_of(record: Mapping[str, Any]) -> str:
    """What a record names as its hardware, for readers: records of one thread say "1 threads"."""
    return re.sub(r"\b1 threads", "1 thread", record["hardware"])


def describe_hardware(device: torch.device) -> str:
    """The hardware that a run used, as text: "1 NVIDIA H200", or "AMD EPYC, 2 threads"."""
    if device.type == "cuda":
        return f"1 {torch.cuda.get_device_name(device)}"
    return f"{_cpu_name()}, {torch.get_num_threads()} threads" + (f" ({device.type})" if device.type != "cpu" else "")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_versions() -> dict[str, str]:
    """Versions of Python and of what the numbers depend on."""
    packages = ("torch", "torchvision", "timm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def describe_commit() -> str:
    """The checkout's commit, with "+changes" where the package differs from it.

    Outside a checkout it is what the variable DEEPVIT_EDU_COMMIT says, else "unknown".
    """
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return variable("DEEPVIT_EDU_COMMIT", "unknown")


def _git(*arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(
        ["git", *arguments], cwd=PACKAGE, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@functools.cache
def running_code() -> list[str]:
    """The commit and the `code_hash` of this process: as at its first run, since files may change later."""
    return [describe_commit(), code_hash()]


@functools.cache
def code_hash() -> str:
    """SHA-256 over the package's Python files: what ran, even where there is no git."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
