"""Model files: ours, saved with what is needed to build the model again. Loading never executes code."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .files import atomic_path
from .nn.transformer import VisionTransformer, ViTConfig


def save_model(model: VisionTransformer, path: str | Path, **about: object) -> Path:
    """Writes weights and configuration as safetensors, atomically.

    Args:
        model: the model.
        path: the file to write.
        about: anything JSON can hold that belongs with the weights (name, data set, classes, mean, std).
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"config": json.dumps(asdict(model.config)), "about": json.dumps(about)}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata=metadata)
    return Path(path)


def load_model(path: str | Path) -> tuple[VisionTransformer, dict]:
    """Reads what `save_model` wrote.

    Returns:
        the model, in eval mode, and the dictionary of what was saved with it.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a whole file of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}; `deepvit-edu train --out FOLDER` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        model = VisionTransformer(ViTConfig(**json.loads(metadata["config"])))
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole model file of deepvit_edu ({type(error).__name__}); train or copy it again"
        ) from error
    return model.eval(), json.loads(metadata["about"])
