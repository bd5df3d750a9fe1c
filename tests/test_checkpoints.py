import pickle

import pytest
import torch

from deepvit_edu.checkpoints import load_model, save_model
from tests.helpers import tiny_model


def test_round_trip(tmp_path):
    model = tiny_model().eval()
    path = save_model(model, tmp_path / "m.safetensors", name="tiny", mean=[0.5])
    loaded, about = load_model(path)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(images), model(images))
    assert loaded.config == model.config
    assert about == {"name": "tiny", "mean": [0.5]}


def test_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        load_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kind", ["truncated", "pickle", "empty", "foreign"])
def test_what_is_not_ours_is_refused_without_running_it(tmp_path, kind):
    from safetensors.torch import save_file

    path, trap = tmp_path / "m.safetensors", tmp_path / "trap"
    save_model(tiny_model(), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(_Trap(str(trap))))
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="is not a whole model file"):
        load_model(path)
    assert not trap.exists()


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")
