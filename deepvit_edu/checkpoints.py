"""Model files: ours, saved with what is needed to build the model again, and the authors'. Loading executes no code."""

import json
import math
import re
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from .nn.model import VisionTransformer, ViTConfig
from .options import check_number
from .reading import UnreadableError, reading
from .tensors import check_finite, is_safetensors, read_pytorch, read_tensors, write_tensors
from .zoo import CONFIGS, default_cfgs, model_config

WRAPPINGS = ("state_dict_ema", "model_ema", "ema", "state_dict", "net", "model")
"""Under what name trainers put the weights, the best first."""
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
"""Ways of resizing that a model's file may name."""
PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""What wrappers of a model (DistributedDataParallel, torch.compile, a detector) put before every name."""


def save_model(model: VisionTransformer, path: str | Path, **about: object) -> Path:
    """Writes weights and configuration as safetensors, atomically.

    Args:
        model: the model.
        path: the file to write.
        about: anything JSON can hold that belongs with the weights: name, dataset, classes, and how its images are
            prepared (mean, std, interpolation, crop_pct).
    """
    texts = {"config": json.dumps(asdict(model.config)), "about": json.dumps(about)}
    return write_tensors(path, model.state_dict(), {**texts, "version": version("deepvit-edu")})


def load_model(path: str | Path) -> tuple[VisionTransformer, dict]:
    """Reads what `save_model` wrote.

    Returns:
        the model, in eval mode, and the dictionary of what was saved with it.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a whole file of this package; the message says what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no model file {path}; `deepvit-edu train --out FOLDER` writes one")
    weights, metadata = read_tensors(path)
    if "config" not in metadata:
        raise UnreadableError(f"{path} is not a model file of deepvit_edu: it holds weights and no configuration")
    with reading(path, "train or copy it again"):
        about, config = json.loads(metadata.get("about", "{}")), _config_of(json.loads(metadata["config"]))
        _check_about(about, config)
        with torch.device("meta"):  # compared before memory is taken
            _check_same_parts(VisionTransformer(config).state_dict(), weights)
    check_finite(weights, path)
    model = VisionTransformer(config)
    model.load_state_dict(weights)
    model.pretrained_cfg = model.default_cfg = _inputs(about, config)
    return model.eval(), about


def _inputs(about: dict, config: ViTConfig) -> dict:
    """What timm's transforms ask a model for: as its file says, or else as the model of its name has it."""
    named = default_cfgs[about["name"]].default.to_dict() if about.get("name") in CONFIGS else {}
    said = {name: about[name] for name in ("mean", "std", "interpolation", "crop_pct") if about.get(name) is not None}
    said |= {name: tuple(said[name]) for name in ("mean", "std") if name in said}
    return {**named, "input_size": (config.in_chans, config.img_size, config.img_size), **said}


def _config_of(options: dict) -> ViTConfig:
    known = {field.name for field in fields(ViTConfig)}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"it has the option '{unknown[0]}', so a younger version wrote it; update deepvit_edu")
    return ViTConfig.from_json(options)


def _check_about(about: object, config: ViTConfig) -> None:
    """ValueError where what a file says of its model cannot be used: names, classes, normalisation."""
    if not isinstance(about, dict):
        raise ValueError(f"what it says about its model is {about!r}, not a table")
    about = {name: value for name, value in about.items() if value is not None}
    for name in ("name", "dataset"):
        if not isinstance(about.get(name, ""), str):
            raise ValueError(f"its {name} is {about[name]!r}, not a text")
    for name, above in (("mean", -math.inf), ("std", 0)):
        numbers = about.get(name, [1.0] * config.in_chans)
        if not isinstance(numbers, list) or len(numbers) != config.in_chans:
            raise ValueError(f"its {name} is {numbers!r}, not a number for each of {config.in_chans} channels")
        for number in numbers:
            check_number(f"its {name}", number, above=above)
    check_number("its crop_pct", about.get("crop_pct", 1.0), above=0, at_most=2)
    if (way := about.get("interpolation", "bicubic")) not in INTERPOLATIONS:
        raise ValueError(f"its interpolation is {way!r}, none of {', '.join(INTERPOLATIONS)}")
    classes = about.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
        raise ValueError(f"its classes are {classes!r}, not a list of names")
    if classes and config.num_classes and len(classes) != config.num_classes:
        raise ValueError(f"it names {len(classes)} classes, and its head has {config.num_classes}")


def _check_same_parts(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """ValueError where weights are not those that a configuration asks for: others, or of another shape or type."""
    if problem := _misfit(set(expected), set(found)):
        raise ValueError(problem)
    for name, wanted in expected.items():
        if wanted.shape != found[name].shape:
            raise ValueError(
                f"its {name} is {tuple(found[name].shape)} and its configuration says {tuple(wanted.shape)}"
            )
        if wanted.is_floating_point() != found[name].is_floating_point():
            raise ValueError(f"its {name} holds {found[name].dtype}, of another type than {wanted.dtype}")


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
    (r"^selection\.predictors\.(\d)\.project\.", r"score_predictor.\1.in_conv."),
    (r"^selection\.predictors\.(\d)\.classify\.", r"score_predictor.\1.out_conv."),
)
_RENAMES_EVO = (
    (r"^blocks\.(\d+)\.norm1\.", r"norms.\1."),
    (r"^blocks\.(\d+)\.attn\.qkv\.(.*)", r"qks.\1.qk.\2 + vs.\1.v.\2"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"projs.\1."),
    (r"^selection\.", ""),
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


def official_names(config: ViTConfig) -> dict[str, tuple[str, ...]]:
    """For every parameter and buffer of a model, our name and the authors'; several where they hold it in parts."""
    renames = _RENAMES + _RENAMES_OF_TOKENS.get(config.tokens, ())
    if config.selection == "waiting":
        renames += _RENAMES_EVO
    with torch.device("meta"):
        own = list(VisionTransformer(config).state_dict())
    names = {}
    for name in own:
        official = name
        for pattern, replacement in renames:
            official = re.sub(pattern, replacement, official)
        names[name] = tuple(official.split(" + "))
    return names


def _config_for(state_dict: dict[str, Tensor], name: str, dense: str, second: str, **overrides: object) -> ViTConfig:
    """The configuration of a named model, with those of the optional heads that the weights have.

    Args:
        state_dict: weights in either layout.
        name: our name of the model.
        dense, second: what the dense head's weight and that of Evo-ViT's second head are called in that layout.
        overrides: further options.
    """
    config = model_config(name, dense_head=dense in state_dict, **overrides)
    if config.selection == "waiting" and second not in state_dict:
        return replace(config, selection_options={**config.selection_options, "class_head": False})
    return config


def from_official(state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Turns the authors' layout of a model's weights into ours.

    Args:
        state_dict: the authors' names and tensors; left as it is.
        name: our name of the model. A dense head is taken along where the weights have one.

    Raises:
        ValueError: naming the parameters that are missing or unknown.
    """
    names = official_names(_config_for(state_dict, name, "aux_head.weight", "head_cls.weight"))
    return _translate(state_dict, names, f"these weights do not fit {name}")


def _translate(state_dict: dict[str, Tensor], names: dict[str, tuple[str, ...]], refusal: str) -> dict[str, Tensor]:
    expected = {part for parts in names.values() for part in parts}
    if problem := _misfit(expected, set(state_dict)):
        raise ValueError(f"{refusal}: {problem}")
    return {name: _joined([_convert(part, state_dict[part]) for part in parts]) for name, parts in names.items()}


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def to_official(state_dict: dict[str, Tensor], name: str, **overrides: object) -> dict[str, Tensor]:
    """Turns our layout of a model's weights into the authors'; undoes `from_official`.

    Args:
        state_dict: our names and tensors.
        name: our name of the model.
        overrides: options with which the model was created that change its parameters (`depth`, say).
    """
    config = _config_for(state_dict, name, "dense_head.weight", "selection.head_cls.weight", **overrides)
    official = {}
    for own, parts in official_names(config).items():
        # Where there are two they are Evo-ViT's: queries and keys have twice as many rows as values.
        tensor = state_dict[own]
        pieces = [tensor] if len(parts) == 1 else tensor.split([2 * config.embed_dim, config.embed_dim])
        official |= {part: _convert(part, piece, back=True) for part, piece in zip(parts, pieces, strict=True)}
    return official


def _misfit(expected: set[str], found: set[str]) -> str:
    """Why weights of some names fit no model that has others; empty where the names are the same."""
    blocks, wanted = _num_blocks(found), _num_blocks(expected)
    depth = f"there are {blocks} blocks, and the model has {wanted}" if blocks != wanted else ""
    parts = (depth, _some("missing", expected - found), _some("not known", found - expected))
    return "; ".join(filter(None, parts))


def _num_blocks(names: set[str]) -> int:
    numbers = (re.match(r"blocks\.(\d+)\.", name) for name in names)
    return max((1 + int(number[1]) for number in numbers if number), default=0)


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
    return _load_official(model, _unwrap(read_pytorch(path), path), path)


def official_model(path: str | Path, name: str, **overrides: object) -> VisionTransformer:
    """The model in a file that the authors released, in eval mode: of that name, with the file's classes and heads.

    Args:
        path: as for `load_official`.
        name: our name of the model.
        overrides: further options: the image size, or `selection="none"` for a network that keeps all its tokens.

    Raises:
        FileNotFoundError, ValueError: as of `load_official`, and for a name or an option that does not exist.
    """
    weights = _unwrap(read_pytorch(path), path)
    classes = _first(weights["head.weight"]) if "head.weight" in weights else 0
    config = _config_for(weights, name, "aux_head.weight", "head_cls.weight", num_classes=classes, **overrides)
    model = VisionTransformer(config)
    model.pretrained_cfg = model.default_cfg = _inputs({"name": name}, config)
    return _load_official(model, weights, path).eval()


def _load_official(model: VisionTransformer, weights: dict[str, Tensor], path: str | Path) -> VisionTransformer:
    names = official_names(model.config)
    for name, parameter in model.state_dict().items():
        if name.endswith("scale2.gamma"):  # the first release had none
            weights.setdefault(*names[name], torch.ones_like(parameter))
    _check_heads(model, weights, path)
    loaded = _translate(weights, names, _refusal(path))
    loaded["pos_embed"] = _fit_positions(loaded["pos_embed"], model)
    for name, parameter in model.state_dict().items():
        _check_fit(name, loaded[name], parameter, path)
    model.load_state_dict(loaded)
    return model


def load_pretrained(model: VisionTransformer, path: str | Path) -> list[str]:
    """Takes trained weights over into a model that is to be trained further: on other classes, at another size.

    Every weight of the file is taken but those of heads that do not fit, which keep their new ones: so a file of 1000
    classes starts a model of ten. What selects tokens stays new where the file has none of it: so a plain model starts
    one that drops tokens. Positions are resized as in `load_official`.

    Args:
        model: of the file's family, with any number of classes and any image size.
        path: a file of ours or of the authors.

    Returns:
        the names of the weights that stayed new.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged, holds code, or belongs to another model; the model is left as it was.
    """
    loaded, expected = _weights_of(model, path), model.state_dict()
    heads = [name for name in {*expected, *loaded} if name.startswith(("head.", "dense_head.", "selection."))]
    new = [name for name in heads if name not in loaded or loaded[name].shape != expected.get(name, loaded[name]).shape]
    loaded = {name: value for name, value in loaded.items() if name in expected and name not in new}
    if problem := _misfit(set(expected) - set(new), set(loaded)):
        raise ValueError(f"{_refusal(path)}: {problem}")
    loaded["pos_embed"] = _fit_positions(loaded["pos_embed"], model)
    for name, value in loaded.items():
        _check_fit(name, value, expected[name], path)
    model.load_state_dict(loaded, strict=False)
    return sorted(name for name in new if name in expected)


def normalisation_of(model: VisionTransformer, path: str | Path) -> dict[str, tuple[float, ...]]:
    """How the images were normalised on which a file's weights were trained: `mean` and `std`, for an `ImageSet`.

    A file of ours says it; for the authors' it is what their code has, as in the model's `default_cfg`.

    Raises:
        FileNotFoundError, ValueError: as of `load_model`, for a file of ours.
    """
    about = load_model(path)[1] if is_safetensors(path) else {}
    return {name: tuple(about.get(name) or model.default_cfg[name]) for name in ("mean", "std")}


def _weights_of(model: VisionTransformer, path: str | Path) -> dict[str, Tensor]:
    """The weights in a file under our names, whoever wrote it."""
    weights = read_weights(path)
    if is_safetensors(path):
        known = set(model.state_dict())
        if unknown := {name for name in set(weights) - known if not name.startswith("dense_head.")}:
            raise ValueError(f"{_refusal(path)}: {_misfit(known, known | unknown)}")
        return weights
    config = replace(model.config, dense_head="aux_head.weight" in weights, num_classes=1)
    names = official_names(config)
    if not any(part in weights for own, parts in names.items() if own.startswith("selection.") for part in parts):
        names = official_names(replace(config, selection="none"))  # a plain model's file
    if "head.weight" not in weights:
        names = {own: parts for own, parts in names.items() if not own.startswith("head.")}
    for own, parts in names.items():
        if own.endswith("scale2.gamma"):  # the first release had none
            weights.setdefault(*parts, torch.ones_like(model.state_dict()[own]))
    return _translate(weights, names, _refusal(path))


def _refusal(path: str | Path) -> str:
    return f"the weights in {path} do not fit the model"


def _check_heads(model: VisionTransformer, weights: dict[str, Tensor], path: str | Path) -> None:
    """ValueError, saying how to create the model, if file and model have different heads."""
    if not model.num_classes and "head.weight" in weights:
        raise ValueError(f"{path} has a head; create the model with num_classes={_first(weights['head.weight'])}")
    if "aux_head.weight" in weights and model.dense_head is None:
        raise ValueError(f"{path} has a dense head; create the model with dense_head=True")
    if "aux_head.weight" not in weights and model.dense_head is not None:
        raise ValueError(f"{path} has no dense head; create the model with dense_head=False")


def _check_fit(name: str, loaded: Tensor, expected: Tensor, path: str | Path) -> None:
    """ValueError if a tensor of a file does not fit the model's parameter of that name."""
    if loaded.shape != expected.shape:
        hint = f"; create the model with num_classes={_first(loaded)}" if name.startswith("head.") else ""
        raise ValueError(
            f"{path} has a {name} of shape {tuple(loaded.shape)}, the model one of {tuple(expected.shape)}{hint}"
        )
    if loaded.is_floating_point() != expected.is_floating_point():
        raise ValueError(f"{path} has a {name} of {loaded.dtype}, the model one of {expected.dtype}")
    check_finite({name: loaded}, path)


def _first(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file of any known kind, under the file's own names; errors as for the reader of that kind."""
    return read_tensors(path)[0] if is_safetensors(path) else _unwrap(read_pytorch(path), path)


def _unwrap(content: object, path: str | Path) -> dict[str, Tensor]:
    for key in WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(map(_is_weight, content.items())):
        raise ValueError(f"{path} holds no weights in a known layout; expected a dictionary of tensors")
    return {_without_prefixes(name): value for name, value in content.items()}


def _without_prefixes(name: str) -> str:
    for prefix in PREFIXES * 2:  # in either order
        name = name.removeprefix(prefix)
    return name


def _is_weight(entry: tuple[object, object]) -> bool:
    name, value = entry
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _fit_positions(positions: Tensor, model: VisionTransformer) -> Tensor:
    """The position embeddings, resized if the file has another square grid."""
    if model.config.positions == "sinusoid":
        return model.pos_embed.detach()
    prefix, side = int(model.cls_token is not None), model.patch_embed.grid_size
    patches = positions.shape[1] - prefix if positions.ndim == 3 else 0
    if patches < 1 or math.isqrt(patches) ** 2 != patches or patches == side**2:
        return positions
    return resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=prefix)
