import shutil

import pytest
import torch

from deepvit_edu.training.checkpoint import CheckpointManager, size_of

STATE = {"weights": torch.arange(1000.0), "step": 3, "name": "x"}


def test_the_newest_are_kept_and_read(tmp_path):
    keeper = CheckpointManager(tmp_path / "run", keep=2)
    assert keeper.load() is None
    for step in (5, 10, 200):
        keeper.save(step, {**STATE, "step": step})
    assert [path.name for path in keeper.paths()] == ["checkpoint-00000200.pt", "checkpoint-00000010.pt"]
    loaded = keeper.load()
    assert loaded["step"] == 200
    assert torch.equal(loaded["weights"], STATE["weights"])


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 800] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip_a_bit])
def test_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    keeper = CheckpointManager(tmp_path)
    keeper.save(1, {**STATE, "step": 1})
    damage(keeper.save(2, STATE))
    with pytest.warns(UserWarning, match="00000002.pt is damaged"):
        assert keeper.load()["step"] == 1
    damage(tmp_path / "checkpoint-00000001.pt")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="any of the 2 checkpoints"):
        keeper.load()


def test_half_a_file_of_a_killed_process_is_cleared_away(tmp_path):
    leftover = tmp_path / ".checkpoint-00000007.pt.123.part"
    leftover.write_bytes(b"half")
    assert CheckpointManager(tmp_path).load() is None
    assert not leftover.exists()


def test_a_checkpoint_of_older_code_is_read_and_goes_as_the_oldest(tmp_path):
    torch.save({**STATE, "step": 9}, tmp_path / "checkpoint.pt")
    keeper = CheckpointManager(tmp_path, keep=1)
    assert keeper.load()["step"] == 9
    keeper.save(10, {**STATE, "step": 10})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000010.pt"]


def test_full_disk_is_an_error_before(tmp_path, monkeypatch):
    keeper = CheckpointManager(tmp_path, keep=2)
    size = size_of(STATE)
    assert size == 4000
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=3 * size - 1))
    with pytest.raises(OSError, match="3 checkpoints need"):
        keeper.check_space(size)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=3 * size))
    keeper.check_space(size)
