import pytest

from tools.measure import training_speed
from tools.measure.training_speed import Way, measure, training


@pytest.mark.slow
def test_ways_take_turns_in_processes_of_their_own(monkeypatch):
    monkeypatch.setattr(training_speed, "STEPS", 1)
    ways = [Way({"lever": name}, copies=copies) for name, copies in (("none", 1), ("two at once", 2))]
    rows = measure(ways, rounds=1)
    assert [row["lever"] for row in rows] == ["none", "two at once"]
    assert rows[0]["speedup"] == 1
    assert all(row["images_per_second"] > 0 for row in rows)


def test_a_process_that_ends_is_reported():
    with training(Way({}, arm="no such arm")) as train, pytest.raises(OSError, match="a process ended before"):
        train()


def test_each_arm_is_compared_with_plain_attention_and_each_lever_with_none():
    groups = training_speed.parts()
    assert {way.arm for way in groups[-1]} == {"plain-24", "refiner-24"}
    assert all(group[0].label.get("lever", "none") == "none" for group in groups)
    assert not any(group[0].keeps_memory for group in groups if "lever" in group[0].label)
