"""Small deep trained models that the chapters take apart, and what was measured while they were trained.

`book/experiments/specimens.yml` declares them, `tools/measure/train_specimens.py` trains them, and
`tools/measure/interventions.py` measures what their maps are worth.
"""

from torch import Tensor

from .assets import asset_path
from .checkpoints import load_model
from .nn.model import VisionTransformer
from .records import Record, load_measurement, load_record
from .tensors import read_tensors
from .words import nearest

REMEDIES = ("plain", "re", "refiner", "layerscale")
DATA = ("shapes", "cifar10")
INTERVENTIONS = "records/measurements/specimen_interventions.json"


def load_specimen(remedy: str, data: str = "shapes") -> VisionTransformer:
    """A trained network of 24 blocks, in eval mode.

    Args:
        remedy: "plain", "re" (Re-attention), "refiner" or "layerscale".
        data: what it was trained on: "shapes" (65 tokens, 48 channels) or "cifar10" (17 tokens, 64 channels).

    Raises:
        ValueError: for an unknown specimen.
        AssetError: when its file cannot be had.
    """
    return load_model(asset_path(f"weights/{_name(remedy, data)}.safetensors"))[0]


def specimen_record(remedy: str, data: str = "shapes") -> Record:
    """The record of a specimen's training; "diagnostics" holds what `measure_model` found in it afterwards."""
    _name(remedy, data)
    return load_record(asset_path(f"records/specimens/{data}/{remedy}_s0.json"))


def specimen_similarity(remedy: str, data: str = "shapes") -> dict[str, Tensor]:
    """Similarity of a specimen's used maps at initialisation and after each epoch, on the same test images.

    Returns:
        each (epochs + 1, L, L): "raw" and "row" of `cross_layer_similarity` without centring and with rows centred,
        "images_raw" and "images_row" of `between_images`.
    """
    return {
        key: matrices.float()
        for key, matrices in read_tensors(asset_path(f"weights/{_name(remedy, data)}_similarity.safetensors"))[
            0
        ].items()
    }


def specimen_interventions(remedy: str, data: str = "shapes") -> list[dict]:
    """What replacing a specimen's maps costs on test images: the rows of `intervene_all`, as measured and recorded."""
    _name(remedy, data)
    rows = load_measurement(asset_path(INTERVENTIONS))["rows"]
    return [row for row in rows if (row["specimen"], row["data"]) == (remedy, data)]


def _name(remedy: str, data: str) -> str:
    for value, known in ((remedy, REMEDIES), (data, DATA)):
        if value not in known:
            raise ValueError(f"unknown specimen '{value}'{nearest(value, list(known))}")
    return f"{remedy}_{data}"
