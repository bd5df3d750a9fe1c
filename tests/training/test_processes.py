"""Processes that train together come together and part."""

import pytest
import torch

from deepvit_edu.training import processes
from deepvit_edu.training.processes import started

from .helpers import together


def test_processes_part_while_their_model_lives_on():
    for _ in range(12):  # one parting in a few hung
        together(2, _meet_and_part)


def _meet_and_part():
    with started("cpu", timeout_minutes=0.5) as both:
        model = both.wrap(torch.nn.Linear(2, 2))
        model(torch.ones(1, 2)).sum().backward()
        assert both.total(torch.tensor(both.rank + 1)) == 3
    del model


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that seems to have two GPUs; what `set_device` was called with."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(processes, "pick_device", torch.device)
    return chosen


def among_many(monkeypatch, rank):
    for name, value in {"WORLD_SIZE": "3", "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("device", [None, "cuda", "cuda:0"])
def test_each_process_takes_a_gpu_of_its_own(two_gpus, monkeypatch, device):
    among_many(monkeypatch, "1")
    assert processes._own_device(device) == torch.device("cuda:1")
    assert two_gpus == [torch.device("cuda:1")]


def test_more_processes_than_gpus_are_refused(two_gpus, monkeypatch):
    among_many(monkeypatch, "2")
    with pytest.raises(ValueError, match="start 2 with --nproc-per-node"):
        processes._own_device("cuda")
    assert processes._own_device("cpu") == torch.device("cpu")


def test_a_process_alone_takes_the_gpu_that_is_named(two_gpus):
    with started("cuda:1") as alone:
        assert alone.device == torch.device("cuda:1")
    with started("cuda"):
        assert two_gpus == [torch.device("cuda:1")]
