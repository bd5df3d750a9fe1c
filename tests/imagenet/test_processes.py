"""Processes that train together come together and part."""

import torch

from deepvit_edu.imagenet.processes import started

from .helpers import together


def test_processes_part_while_their_model_lives_on():
    for _ in range(12):  # one parting in a few hung
        together(2, _meet_and_part)


def _meet_and_part():
    with started("cpu", timeout_minutes=0.5) as processes:
        model = processes.wrap(torch.nn.Linear(2, 2))
        model(torch.ones(1, 2)).sum().backward()
        assert processes.total(torch.tensor(processes.rank + 1)) == 3
    del model
