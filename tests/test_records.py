import json
import subprocess

import pytest
import torch

from deepvit_edu import records
from deepvit_edu.records import list_records, load_record, save_record, table, validate_record


@pytest.fixture
def record():
    return {
        "model": "tiny",
        "num_parameters": 10,
        "dataset": "noise",
        "rung": "shapes",
        "data_hash": "ab",
        "train_images": 8,
        "test_images": 4,
        "seed": 0,
        "epochs": 2,
        "train_loss": 0.5,
        "test_loss": 0.6,
        "test_accuracy": 0.75,
        "curves": {"epoch": [1, 2], "train_loss": [1.0, 0.5]},
        "seconds": 60.0,
        "images_per_second": 10.0,
        "hardware": "a machine",
        "versions": {"torch": "2"},
        "commit": "unknown",
        "code_hash": "cd",
        "config": {},
        "started": "2026-01-01T00:00:00+00:00",
    }


def test_round_trip(record, tmp_path):
    assert load_record(save_record(record, tmp_path / "new" / "a.json")) == record
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


@pytest.mark.parametrize("field", records.FIELDS)
def test_every_field_is_needed(record, field):
    del record[field]
    with pytest.raises(ValueError, match=f"no field '{field}'"):
        validate_record(record)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", "2", "'epochs' is a str"),
        ("seed", True, "'seed' is a bool"),
        ("test_accuracy", 75.0, "a fraction"),
        ("curves", {"test_accuracy": [0.5, 0.7]}, "its curve ends with"),
        ("curves", {"epoch": [1]}, "needs 2 numbers"),
    ],
)
def test_wrong_values_are_named(record, field, value, message):
    with pytest.raises(ValueError, match=message):
        validate_record({**record, field: value})


@pytest.mark.parametrize("curve", [5, None, [None], ["a"], [float("nan")], [10**400]])
def test_curves_are_lists_of_finite_numbers(record, curve):
    with pytest.raises(ValueError, match="the record's curve 'test_loss' is not a list of finite numbers"):
        validate_record({**record, "curves": {**record["curves"], "test_loss": curve}})


def test_a_file_with_nan_is_no_record(record, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**record, "train_loss": float("nan")}))
    with pytest.raises(ValueError, match=r"a\.json is not a record .*NaN is no number of JSON"):
        load_record(tmp_path / "a.json")


def test_what_a_record_says_cannot_steer_the_terminal(record, tmp_path):
    save_record({**record, "model": "\x1b[31mred\nsecond row"}, tmp_path / "a.json")
    lines = table(list_records(tmp_path)).splitlines()
    assert len(lines) == 2
    assert "\\x1b[31mred second row" in lines[1]


def test_an_invalid_record_is_not_written_over_a_good_one(record, tmp_path):
    path = save_record(record, tmp_path / "a.json")
    with pytest.raises(ValueError, match="'train_loss' is nan, which is not a finite number"):
        save_record({**record, "train_loss": float("nan")}, path)
    assert load_record(path) == record
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model": "a", "model": "b"}'])
def test_what_is_not_a_record_is_said_with_its_name(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is not a record"):
        load_record(path)


@pytest.mark.parametrize("change", [{"config": {"recipe": 3}}, {"config": {"recipe": [1]}}, {"seed": 10**400}])
def test_a_record_that_breaks_what_reads_it_is_said_with_its_name(record, tmp_path, change):
    (tmp_path / "a.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(ValueError, match=r"a\.json is not a record"):
        load_record(tmp_path / "a.json")


def test_table_has_one_line_a_record(record, tmp_path):
    save_record(record, tmp_path / "b.json")
    save_record({**record, "model": "other"}, tmp_path / "a.json")
    header, first, second = table(list_records(tmp_path)).splitlines()
    assert header.split()[:2] == ["record", "model"]
    assert first.split()[:2] == ["a", "other"]
    assert "75.00%" in second
    assert header.index("hardware") == second.index("a machine")


def test_one_thread_is_told_as_one():
    assert records.hardware_of({"hardware": "AMD EPYC, 1 threads"}) == "AMD EPYC, 1 thread"
    assert records.hardware_of({"hardware": "AMD EPYC, 11 threads"}) == "AMD EPYC, 11 threads"


def test_descriptions_of_where_and_what():
    assert "threads" in records.describe_hardware(torch.device("cpu"))
    assert records.describe_versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert len(records.code_hash()) == 64


def test_commit_marks_changes_of_the_package(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(records, "PACKAGE", package)
    assert records.describe_commit() == "unknown"
    monkeypatch.setenv("DEEPVIT_EDU_COMMIT", "abc")  # of a copy without its history
    assert records.describe_commit() == "abc"
    (package / "a.py").write_text("1")
    for command in ("init -q", "add .", "-c user.name=n -c user.email=e commit -qm m"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    commit = records.describe_commit()
    assert len(commit) == 40
    (package / "a.py").write_text("2")
    assert records.describe_commit() == f"{commit}+changes"


def test_json_is_stable(record, tmp_path):
    text = save_record(record, tmp_path / "a.json").read_text()
    assert text == save_record(json.loads(text), tmp_path / "b.json").read_text()
