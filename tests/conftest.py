import os

import pytest
import torch

os.environ["DEEPVIT_EDU_PROGRESS"] = "0"


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_settings_of_the_reader(monkeypatch):
    for name in ("DEEPVIT_EDU_DATA", "DEEPVIT_EDU_CACHE", "DEEPVIT_EDU_TIER", "DEEPVIT_EDU_ASSETS"):
        monkeypatch.delenv(name, raising=False)
