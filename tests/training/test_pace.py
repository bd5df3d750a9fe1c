"""How fast a run goes is measured, recorded, and made into hours."""

from functools import partial

import pytest
from PIL import Image

from deepvit_edu.records import load_measurement
from deepvit_edu.training import TrialEnded, pace
from deepvit_edu.training.pace import SpeedMeter, speed_table, training_hours
from tools.measure import imagenet_speed

from .helpers import SMALL, flags, make_imagenet, run_files, small_setup, together
from .test_commands import page_commands


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: `clock[0] += seconds`."""
    now = [100.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    return now


def window(measured, clock, step, computing, waiting):
    clock[0] += computing
    with measured.waiting():
        clock[0] += waiting
    seconds = measured.look(step)
    measured.start(step)
    return seconds


def test_pace_is_of_windows_without_the_first(clock):
    measured = SpeedMeter(images_per_step=10)
    assert measured.row() is None
    assert window(measured, clock, 2, computing=50, waiting=50) == 100
    assert measured.row() is None  # the readers started in it
    for step, seconds in ((4, 4), (6, 8), (8, 5)):
        window(measured, clock, step, computing=seconds * 0.75, waiting=seconds * 0.25)
    row = measured.row()
    assert row["images_per_second"] == 4  # 20 images in 4, 8 and 5 seconds
    assert row["images_per_second_q1"] == pytest.approx((2.5 + 4) / 2)
    assert (row["waiting"], row["windows"]) == (0.25, 3)


def test_what_is_no_training_does_not_count(clock):
    measured = SpeedMeter(images_per_step=10)
    window(measured, clock, 1, computing=1, waiting=0)
    clock[0] += 1000  # an evaluation
    measured.start(1)
    window(measured, clock, 2, computing=2, waiting=0)
    assert measured.row()["images_per_second"] == 5


def test_hours_of_a_whole_run():
    assert training_hours(images_per_second=1000, epochs=300) == pytest.approx(1_281_167 * 300 / 1000 / 3600)


def test_table_shares_the_speed_among_the_gpus():
    row = {"recipe": "t2t_vit_14", "hardware": "4 processes, each 1 X", "precision": "bfloat16", "epochs": 310}
    row |= {"images_per_second": 4000, "images_per_second_q1": 3600, "images_per_second_q3": 4400}
    row |= {"num_processes": 4, "waiting": 0.125, "peak_gib": 20.04, "total_batch": 512, "batch_size": 64}
    line = speed_table([row]).splitlines()[-1]
    speed = "| `t2t_vit_14` | 1e+03 (900-1.1e+03) | 110 | 14 |"
    assert line == f"{speed} 512 (64) | 20.0 | 12% | 4 processes, each 1 X, bfloat16 |"


def trial(root, out, **settings):
    with pytest.raises(TrialEnded):
        run_files(root, out, small_setup(), settings=settings)


def test_a_trial_is_recorded(tmp_path, capsys):
    root = make_imagenet(tmp_path / "imagenet")
    trial(root, tmp_path / "out", stop_after=5)
    measured = load_measurement(tmp_path / "out" / "speed.json")
    (row,) = measured["rows"]
    assert row["images_per_second_q1"] <= row["images_per_second"] <= row["images_per_second_q3"]
    assert 0 < row["waiting"] < 1
    assert (row["windows"], row["epochs"], row["total_batch"], row["num_processes"]) == (4, 3, 8, 1)
    assert (row["precision"], row["peak_gib"], row["train_images"]) == ("float32", None, 24)
    assert measured["recipe"]["model"] == "deepvit_32b"
    said = capsys.readouterr().out
    assert "of the time waiting for images" in said
    assert "speed.json" in said


def test_a_trial_of_several_processes_is_recorded_once(tmp_path):
    root = make_imagenet(tmp_path / "imagenet")
    together(2, partial(trial, stop_after=3), root, tmp_path / "out")
    (row,) = load_measurement(tmp_path / "out" / "speed.json")["rows"]
    assert row["num_processes"] == 2


def test_a_trial_too_short_to_tell_says_so(tmp_path, capsys):
    trial(make_imagenet(tmp_path / "imagenet"), tmp_path / "out", stop_after=2, look_every=2)
    assert "no speed.json" in capsys.readouterr().out
    assert not (tmp_path / "out" / "speed.json").exists()


def measure(folder, *more):
    changes = flags(**{name: value for name, value in SMALL.items() if name != "num_classes"})
    small = ["--folder", str(folder), "--workers", "1", "--device", "cpu", "--steps", "3", *more]
    imagenet_speed.main([*small, *changes])


@pytest.mark.slow
def test_script_of_the_page_measures_recipes_and_records_them(tmp_path, capsys):
    (command,) = (command for command in page_commands() if "imagenet_speed" in command)
    assert command == "python -m tools.measure.imagenet_speed --photos /data/imagenet/val"
    photos = make_imagenet(tmp_path / "imagenet") / "val"
    (photos / "list.json").write_text("no photograph")
    measure(tmp_path / "records", "--recipes", "t2t_vit_14", "refiner_vit_s", "--photos", str(photos))
    paths = sorted((tmp_path / "records").glob("*.json"))
    first, second = measured = [load_measurement(path) for path in paths]
    assert [one["rows"][0]["recipe"] for one in measured] == ["refiner_vit_s", "t2t_vit_14"]
    assert all(one["rows"][0]["images_per_second"] > 0 for one in measured)
    assert first["images"] == "9 photographs, over and over"
    assert not any(str(tmp_path) in path.read_text() for path in paths)
    assert speed_table([*second["rows"], *first["rows"]]) in capsys.readouterr().out


def test_script_draws_images_where_there_are_no_photographs(tmp_path):
    paths = imagenet_speed.draw_photos(tmp_path / "photos", count=2)
    assert [Image.open(path).size for path in paths] == [(500, 375)] * 2
    assert all(30_000 < path.stat().st_size < 150_000 for path in paths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--photos", "nowhere"], "error: there is no JPEG file below nowhere; name a folder"),
        (["--recipes", "deepvit_33b"], "error: there is no recipe 'deepvit_33b'"),
        (["--steps", "1"], "error: --steps is 1; the first ones warm up, so give at least 2"),
    ],
)
def test_script_says_what_does_not_fit(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as ended:
        measure(tmp_path, *options)
    assert message in f"{ended.value} {capsys.readouterr().err}"
