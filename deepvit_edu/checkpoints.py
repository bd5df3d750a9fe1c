"""Model files: ours, saved with what is needed to build the model again, and the authors'. Loading executes no code."""

import argparse
import json
import math
import pickle
import re
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from .files import atomic_path
from .nn.model import VisionTransformer, ViTConfig
from .zoo import model_config


def save_model(model: VisionTransformer, path: str | Path, **about: object) -> Path:
    """Writes weights and configuration as safetensors, atomically.

    Args:
        model: the model.
        path: the file to write.
        about: anything JSON can hold that belongs with the weights (name, data set, classes, mean, std).
    """
    # Copies, since tied blocks name one tensor several times and safetensors wants each name to have its own.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    metadata = {"config": json.dumps(asdict(model.config)), "about": json.dumps(about)}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata=metadata)
        temporary.chmod(0o644)  # for others to read, as all files here; safetensors shows it to its owner only
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
        model = VisionTransformer(ViTConfig.from_json(json.loads(metadata["config"])))
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole model file of deepvit_edu ({type(error).__name__}); train or copy it again"
        ) from error
    return model.eval(), json.loads(metadata["about"])


# Our name of a parameter, as a pattern, and the authors'; applied one after the other.
_RENAMES = (
    (r"^dense_head\.", "aux_head."),
    (r"^patch_embed\.stem\.(\d+)\.", lambda m: f"patch_embed.{'bn' if int(m[1]) % 3 else 'conv'}{int(m[1]) // 3 + 1}."),
    (r"^patch_embed\.patches\.proj\.", "patch_embed.proj."),
    (r"\.attn\.mix\.", ".attn.reatten_matrix."),
    (r"\.attn\.norm\.batch\.", ".attn.var_norm."),
    (r"\.attn\.norm\.", ".attn.adapt_bn."),
    (r"\.attn\.value\.", ".attn.qkv."),
    (r"\.refine\.expand\.", ".DLA.conv_exp."),
    (r"\.refine\.local\.", ".DLA.depth_sep_conv."),
    (r"\.refine\.reduce\.", ".DLA.conv_pro."),
    (r"\.refine\.norm(\d)\.", r".DLA.bn\1."),
    (r"\.attn\.gate\.", ".attn.se_layer.fc."),
    (r"\.attn\.qkv\.(\d)\.primary\.", lambda m: f".attn.{'qkv'[int(m[1])]}."),
    (r"\.attn\.qkv\.(\d)\.cheap$", lambda m: f".attn.cheap_operation_{'qkv'[int(m[1])]}.weight"),
    (r"\.mlp\.cheap\.(\d)$", lambda m: f".mlp.cheap_operation{int(m[1]) + 2}.weight"),
    (r"\.scale2\.gamma$", ".mlp.scale_channel"),
    (r"\.narrow\.", ".dense_linear."),
    (r"^(blocks\.\d+)\.block\.", r"\1."),
)
_RENAMES_T2T = (
    (r"^patch_embed\.proj\.", "tokens_to_token.project."),
    (r"^patch_embed\.layers\.(\d)\.", lambda m: f"tokens_to_token.attention{int(m[1]) + 1}."),
)
_RENAMES_PERFORMER = ((r"\.random_features$", ".w"), (r"^(tokens_to_token\.\w+)\.qkv\.", r"\1.kqv."))
_RENAMES_TRANSFORMER = (
    (r"^(tokens_to_token\.\w+)\.(qkv|proj)\.", r"\1.attn.\2."),
    (r"^(tokens_to_token\.\w+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"^(tokens_to_token\.\w+)\.mlp\.2\.", r"\1.mlp.fc2."),
)
_RENAMES_OF_TOKENS = {
    "t2t-performer": _RENAMES_T2T + _RENAMES_PERFORMER,
    "t2t-transformer": _RENAMES_T2T + _RENAMES_TRANSFORMER,
}


def official_names(config: ViTConfig) -> dict[str, str]:
    """Our name of every parameter and buffer of a model to the authors' name of it."""
    renames = _RENAMES + _RENAMES_OF_TOKENS.get(config.tokens, ())
    with torch.device("meta"):
        names = {name: name for name in VisionTransformer(config).state_dict()}
    for ours, name in names.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        names[ours] = name
    return names


def from_official(state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Turns the authors' layout of a model's weights into ours.

    Args:
        state_dict: the authors' names and tensors; left as it is.
        name: our name of the model. A dense head is taken along where the weights have one.

    Raises:
        ValueError: naming the parameters that are missing or not known.
    """
    names = official_names(model_config(name, dense_head="aux_head.weight" in state_dict))
    return _translate(state_dict, names, name)


def _translate(state_dict: dict[str, Tensor], names: dict[str, str], what: str) -> dict[str, Tensor]:
    missing, unknown = set(names.values()) - set(state_dict), set(state_dict) - set(names.values())
    if missing or unknown:
        problems = "; ".join(filter(None, (_some("missing", missing), _some("not known", unknown))))
        raise ValueError(f"these are not weights of {what}: {problems}")
    return {ours: _convert(theirs, state_dict[theirs]) for ours, theirs in names.items()}


def to_official(state_dict: dict[str, Tensor], name: str, **overrides: object) -> dict[str, Tensor]:
    """Turns our layout of a model's weights into the authors'; undoes `from_official`.

    Args:
        state_dict: our names and tensors.
        name: our name of the model.
        overrides: options with which the model was created that change its parameters (`depth`, say).
    """
    names = official_names(model_config(name, dense_head="dense_head.weight" in state_dict, **overrides))
    return {theirs: _convert(theirs, state_dict[ours], back=True) for ours, theirs in names.items()}


def _some(what: str, names: set[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(sorted(names)[:3])}{more}"


def _convert(official_name: str, tensor: Tensor, back: bool = False) -> Tensor:
    if ".kqv." in official_name:  # the authors' Performer has keys before queries
        first, second, value = tensor.chunk(3)
        return torch.cat([second, first, value])
    if ".cheap_operation" in official_name:  # one tap for each channel, written as a convolution
        return tensor[:, None, None] if back else tensor[:, 0, 0]
    return tensor


def load_official(model: VisionTransformer, path: str | Path) -> VisionTransformer:
    """Loads a file that the authors released into a model, and returns it.

    Training checkpoints (the moving average first), bare weights and the fine-tuned CIFAR files are recognised by what
    they hold. Positions are resized where the image size differs (fixed ones are rebuilt), and files from before
    Refiner's LayerScale get one of ones. Nothing but tensors and plain values is ever read from the file.

    Args:
        model: a model of the same family; create it with the file's number of classes.
        path: a `.pth` or `.pth.tar` file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged, holds code, or belongs to another model; the model is left as it was.
    """
    weights = _unwrap(_read_safely(Path(path)), path)
    names = official_names(model.config)
    for name, parameter in model.state_dict().items():
        if name.endswith("scale2.gamma"):  # the first release had none
            weights.setdefault(names[name], torch.ones_like(parameter))
    _check_heads(model, weights, path)
    ours = _translate(weights, names, str(path))
    ours["pos_embed"] = _fit_positions(ours["pos_embed"], model)
    for name, parameter in model.state_dict().items():
        _check_fit(name, ours[name], parameter, path)
    model.load_state_dict(ours)
    return model


def _check_heads(model: VisionTransformer, weights: dict[str, Tensor], path: str | Path) -> None:
    """ValueError, saying how to create the model, where file and model have not the same heads."""
    if not model.num_classes and "head.weight" in weights:
        raise ValueError(f"{path} has a head; create the model with num_classes={_first(weights['head.weight'])}")
    if "aux_head.weight" in weights and model.dense_head is None:
        raise ValueError(f"{path} has a dense head; create the model with dense_head=True")
    if "aux_head.weight" not in weights and model.dense_head is not None:
        raise ValueError(f"{path} has no dense head; create the model with dense_head=False")


def _check_fit(name: str, theirs: Tensor, ours: Tensor, path: str | Path) -> None:
    """ValueError where a tensor of a file cannot be what the model has under that name."""
    if theirs.shape != ours.shape:
        hint = f"; create the model with num_classes={_first(theirs)}" if name.startswith("head.") else ""
        raise ValueError(
            f"{path} has a {name} of shape {tuple(theirs.shape)}, the model one of {tuple(ours.shape)}{hint}"
        )
    if theirs.is_floating_point() != ours.is_floating_point() or not theirs.isfinite().all():
        raise ValueError(f"{path} has a {name} that is not all finite numbers; download it again")


def _first(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def _read_safely(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # training checkpoints hold their options
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a file of weights, or holds code, which is not run; use another file"
        ) from error
    except Exception as error:  # what is cut or damaged fails in any way
        raise ValueError(f"{path} is cut or damaged; download it again") from error


def _unwrap(content: object, path: str | Path) -> dict[str, Tensor]:
    for key in ("state_dict_ema", "state_dict", "net", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(map(_is_weight, content.items())):
        raise ValueError(f"{path} holds no weights that are known; expected a dictionary of tensors")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _is_weight(entry: tuple[object, object]) -> bool:
    name, value = entry
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def _fit_positions(positions: Tensor, model: VisionTransformer) -> Tensor:
    """The positions at the model's size, where they are those of another square; else as they are."""
    if model.config.positions == "sinusoid":
        return model.pos_embed.detach()
    prefix, side = int(model.cls_token is not None), model.patch_embed.grid_size
    patches = positions.shape[1] - prefix if positions.ndim == 3 else 0
    if patches < 1 or math.isqrt(patches) ** 2 != patches or patches == side**2:
        return positions
    return resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=prefix)
