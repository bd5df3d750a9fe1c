"""Every named model as a configuration.

`vit_*b` are the plain baselines of the DeepViT paper, `deepvit_*` its models; `t2t_vit_*`, `refiner_vit_*`, `lvvit_*`,
`dynamicvit_*` and `evo_*` those of the other papers. `cifar_vit_{depth}x{channels}` are ours: 64 patches of 4 on images
of 32 pixels.
"""

from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from fnmatch import fnmatch

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs
from torch import nn

from .nn.model import VisionTransformer, ViTConfig
from .words import align, nearest

# Sizes as in the authors' code: DeepViT's `deep_vision_transformer.py`, T2T-ViT's `t2t_vit*.py`, Refiner's
# `refined_transformer.py`, token labeling's `lvvit.py`, DynamicViT's `dyvit.py` and `dylvvit.py`, Evo-ViT's
# `evo_deit.py`.
_VIT = ViTConfig(depth=16, embed_dim=384, num_heads=12, mlp_ratio=3.0)
_DEEPVIT = replace(_VIT, attention=("re",))
# The authors halve the stream before a branch's norm and double what comes out. To the norm, a halved input and four
# times the epsilon are the same.
_DOUBLED = {"branch_scale": 2.0, "block_norm_eps": 4e-6}
_DEEPVIT_STEM = replace(_DEEPVIT, tokens="stem", token_options={"widths": (64, 64)}, **_DOUBLED)
_DEEPVIT_L = replace(_DEEPVIT_STEM, embed_dim=420, depth=32, attention_start=20)
_REFINER_STEM = replace(_VIT, tokens="stem", token_options={"widths": (32, 64, 128)}, **_DOUBLED)
_REFINER = replace(_REFINER_STEM, attention=("accumulated", "reused"), mlp_scale=1e-5)
_UNBIASED = ViTConfig(depth=14, embed_dim=384, num_heads=6, mlp_ratio=3.0, qkv_bias=False, norm_eps=1e-5)
_T2T = replace(_UNBIASED, tokens="t2t-performer", positions="sinusoid")
_T2T_LITE = replace(_T2T, embed_dim=256, num_heads=4, mlp_ratio=2.0)
_T2T_19 = replace(_T2T, depth=19, embed_dim=448, num_heads=7)
_T2T_24 = replace(_T2T, depth=24, embed_dim=512, num_heads=8)
_LVVIT_STEM = replace(_UNBIASED, depth=16, tokens="stem", token_options={"widths": (64, 64, 64)})
_LVVIT = replace(_LVVIT_STEM, branch_scale=1 / 2, dense_head=True)
_DEIT = ViTConfig(depth=12, embed_dim=384, num_heads=6, mlp_ratio=4.0)
_DYNAMIC = replace(_DEIT, selection="predicted", selection_before=(3, 6, 9), keep_ratio=0.7)
_DYNAMIC_LVVIT = replace(_LVVIT, selection="predicted", selection_before=(4, 8, 12), keep_ratio=0.7)
_EVO = replace(_DEIT, selection="waiting", selection_before=(4, 8), keep_ratio=0.5)
_CIFAR = ViTConfig(img_size=32, patch_size=4, mlp_ratio=2.0)


def _cifar(depth: int, embed_dim: int, num_heads: int) -> ViTConfig:
    # The papers' 0.02 belongs to 384 channels; a narrower model needs more to start with scores of the same spread.
    return replace(
        _CIFAR, depth=depth, embed_dim=embed_dim, num_heads=num_heads, init_std=0.02 * (384 / embed_dim) ** 0.5
    )


CONFIGS: dict[str, ViTConfig] = {
    "vit_12b": replace(_VIT, depth=12),
    "vit_16b": _VIT,
    "vit_24b": replace(_VIT, depth=24),
    "vit_32b": replace(_VIT, depth=32),
    "deepvit_16b": _DEEPVIT,
    "deepvit_24b": replace(_DEEPVIT, depth=24),
    "deepvit_32b": replace(_DEEPVIT, depth=32),
    "deepvit_s": replace(_DEEPVIT_STEM, embed_dim=396, attention_start=11, attention_options={"map_scale": 33**-0.5}),
    "deepvit_l": _DEEPVIT_L,
    "deepvit_l_384": replace(_DEEPVIT_L, img_size=384),
    "t2t_vit_7": replace(_T2T_LITE, depth=7),
    "t2t_vit_10": replace(_T2T_LITE, depth=10),
    "t2t_vit_12": replace(_T2T_LITE, depth=12),
    "t2t_vit_14": _T2T,
    "t2t_vit_19": _T2T_19,
    "t2t_vit_24": _T2T_24,
    "t2t_vit_t_14": replace(_T2T, tokens="t2t-transformer"),
    "t2t_vit_t_19": replace(_T2T_19, tokens="t2t-transformer"),
    "t2t_vit_t_24": replace(_T2T_24, tokens="t2t-transformer"),
    "t2t_vit_14_resnext": replace(_T2T, num_heads=32),
    "t2t_vit_14_wide": replace(_T2T, depth=4, embed_dim=768, num_heads=12),
    "t2t_vit_14_se": replace(_T2T, attention=("squeeze-excite",)),
    "t2t_vit_16_ghost": replace(_T2T, depth=16, attention=("ghost",), mlp="ghost"),
    "t2t_vit_dense": replace(_T2T, depth=19, embed_dim=128, num_heads=8, mlp_ratio=2.0, dense_stages=(3, 6, 6, 4)),
    "refiner_vit_s": _REFINER,
    "refiner_vit_m": replace(_REFINER, depth=32, embed_dim=420),
    "refiner_vit_l": replace(_REFINER, depth=32, embed_dim=512, num_heads=16),
    "lvvit_t": replace(_LVVIT, depth=12, embed_dim=240, num_heads=4, branch_scale=1.0),
    "lvvit_s": _LVVIT,
    "lvvit_m": replace(_LVVIT, depth=20, embed_dim=512, num_heads=8),
    "lvvit_l": replace(
        _LVVIT, depth=24, embed_dim=768, num_heads=12, branch_scale=1 / 3, token_options={"widths": (128, 128, 128)}
    ),
    "dynamicvit_deit_ti": replace(_DYNAMIC, embed_dim=192, num_heads=3),
    "dynamicvit_deit_256": replace(_DYNAMIC, embed_dim=256, num_heads=4),
    "dynamicvit_deit_s": _DYNAMIC,
    "dynamicvit_deit_b": replace(_DYNAMIC, embed_dim=768, num_heads=12),
    "dynamicvit_lvvit_s": _DYNAMIC_LVVIT,
    "dynamicvit_lvvit_m": replace(_DYNAMIC_LVVIT, depth=20, embed_dim=512, num_heads=8, selection_before=(5, 10, 15)),
    "evo_deit_ti": replace(_EVO, embed_dim=192, num_heads=3),
    "evo_deit_s": _EVO,
    "evo_deit_b": replace(_EVO, embed_dim=768, num_heads=12),
    "cifar_vit_4x64": _cifar(4, 64, 4),
    "cifar_vit_6x128": _cifar(6, 128, 4),
    "cifar_vit_9x192": _cifar(9, 192, 12),
}

# How timm's transforms prepare images: the authors' `default_cfgs`; of the patterns that fit, the last one wins.
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_IMAGES: dict[str, dict] = {
    "*": {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "crop_pct": 0.9, "interpolation": "bicubic"},
    "vit_*": _HALF,
    "deepvit_*": _HALF,
    "deepvit_l_384": {"crop_pct": 1.0},
    "refiner_vit_*": _HALF,
    "refiner_vit_m": {"crop_pct": 1.0},
    "refiner_vit_l": {"crop_pct": 1.13},
    "lvvit_[ml]": {"crop_pct": 1.0},
    "cifar_*": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616), "crop_pct": 1.0},
}


def list_models(filter: str = "*") -> list[str]:
    """Names of the models that match a shell pattern such as `"vit_*"`, in order."""
    return [name for name in CONFIGS if fnmatch(name, filter)]


class UnknownOptionError(ValueError, TypeError):
    """An option that models do not have; TypeError is what timm's users expect."""


def model_config(name: str, **overrides: object) -> ViTConfig:
    """The configuration behind a name, with options of `ViTConfig` replaced.

    Raises:
        ValueError: for a name or an option that does not exist; the message suggests the nearest.
    """
    if not isinstance(name, str) or name not in CONFIGS:
        raise ValueError(f"no model is named '{name}'{nearest(str(name), list(CONFIGS))}")
    options = [field.name for field in fields(ViTConfig)]
    for option in overrides:
        if option not in options:
            raise UnknownOptionError(f"a model has no option '{option}'{nearest(option, options)}")
    return replace(CONFIGS[name], **overrides)


def config_diff(first: str, second: str) -> str:
    """A plain-text table of the options in which two named models differ."""
    configs = [asdict(model_config(name)) for name in (first, second)]
    differing = [option for option in configs[0] if configs[0][option] != configs[1][option]]
    rows = [("option", first, second), *((option, *(str(_short(c[option])) for c in configs)) for option in differing)]
    return align(rows)


def _short(value: object) -> object:
    """An option's value; of a float, in a dict too, the first four digits."""
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    img_size: int | tuple[int, int] | None = None,
    in_chans: int = 3,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **overrides: object,
) -> VisionTransformer:
    """A new model with random weights.

    Args:
        name: one of `list_models()`.
        num_classes: classes K of the head; 0 for none.
        img_size: height and width of the images in pixels, or the pair of them; the model's own unless given.
        in_chans: colour channels of the images.
        device: where its weights are made; PyTorch's default device unless given.
        dtype: the number format of its weights; PyTorch's default unless given.
        overrides: any other option of `ViTConfig`.

    Raises:
        ValueError: for an unknown name or option, or a size that is not square or that patches do not tile.
    """
    if img_size is not None:
        overrides["img_size"] = square_side(img_size)
    config = model_config(name, num_classes=num_classes, in_chans=in_chans, **overrides)
    with nullcontext() if device is None else torch.device(device):
        model = VisionTransformer(config).to(dtype=dtype)
    inputs = {"input_size": (in_chans, config.img_size, config.img_size)}
    model.pretrained_cfg = model.default_cfg = {**default_cfgs[name].default.to_dict(), **inputs}
    return model


def copy_shared_weights(source: nn.Module, target: nn.Module) -> nn.Module:
    """Copies every weight that both models have, with one name and one shape, from `source` to `target`.

    So two models that differ in one part start from the same numbers in all others.

    Returns:
        `target`.
    """
    shapes = {name: value.shape for name, value in target.state_dict().items()}
    shared = {name: value for name, value in source.state_dict().items() if shapes.get(name) == value.shape}
    target.load_state_dict(shared, strict=False)
    return target


def square_side(img_size: int | tuple[int, int]) -> int:
    """The side of a square in pixels; ValueError, naming the size, for other rectangles."""
    sides = {img_size} if isinstance(img_size, int) else set(img_size)
    if len(sides) > 1:
        raise ValueError(f"img_size {tuple(img_size)} is not square; these models take square images only")
    return sides.pop()


FIRST_CONVOLUTION = {"patch": "patch_embed.proj", "stem": "patch_embed.stem.0"}
"""The name of a model's first convolution by its kind of tokens; tokens-to-token has none."""


def _timm_cfg(name: str) -> dict:
    side = CONFIGS[name].img_size
    cfg = {"architecture": name, "input_size": (3, side, side), "fixed_input_size": True, "classifier": "head"}
    cfg["first_conv"] = FIRST_CONVOLUTION.get(CONFIGS[name].tokens, ())
    for pattern, options in _IMAGES.items():
        cfg.update(options if fnmatch(name, pattern) else {})
    return cfg


default_cfgs = generate_default_cfgs({name: _timm_cfg(name) for name in CONFIGS})
"""What timm knows of each model."""
