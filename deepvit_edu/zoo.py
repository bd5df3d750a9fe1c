"""Every named model as a configuration.

`vit_12b` to `vit_32b` are the plain baselines of the DeepViT paper (Zhou et al. 2021; sizes from the authors' code).
`cifar_vit_{depth}x{channels}` are ours: patches of 4 on images of 32 pixels, 64 tokens.
"""

import difflib
import fnmatch
from dataclasses import fields, replace

from .nn.transformer import VisionTransformer, ViTConfig

_DEEPVIT_BASELINE = ViTConfig(img_size=224, patch_size=16, embed_dim=384, num_heads=12, mlp_ratio=3.0)
_CIFAR = ViTConfig(img_size=32, patch_size=4, mlp_ratio=2.0)


def _cifar(depth: int, embed_dim: int, num_heads: int) -> ViTConfig:
    # The papers' 0.02 belongs to 384 channels; a narrower model needs more to start with scores of the same spread.
    return replace(
        _CIFAR, depth=depth, embed_dim=embed_dim, num_heads=num_heads, init_std=0.02 * (384 / embed_dim) ** 0.5
    )


CONFIGS: dict[str, ViTConfig] = {
    "vit_12b": replace(_DEEPVIT_BASELINE, depth=12),
    "vit_16b": replace(_DEEPVIT_BASELINE, depth=16),
    "vit_24b": replace(_DEEPVIT_BASELINE, depth=24),
    "vit_32b": replace(_DEEPVIT_BASELINE, depth=32),
    "cifar_vit_4x64": _cifar(4, 64, 4),
    "cifar_vit_6x128": _cifar(6, 128, 4),
    "cifar_vit_9x192": _cifar(9, 192, 12),
}


def list_models(filter: str = "*") -> list[str]:
    """Names of the models that match a shell pattern such as `"vit_*"`, in order."""
    return [name for name in CONFIGS if fnmatch.fnmatch(name, filter)]


def nearest(name: str, known: list[str]) -> str:
    """`"; did you mean 'x'?"` for the known name most like `name`, or the list of all: for error messages."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def model_config(name: str, **overrides: object) -> ViTConfig:
    """The configuration behind a name, with options of `ViTConfig` replaced.

    Raises:
        ValueError: for a name or an option that does not exist; the message suggests the nearest.
    """
    if name not in CONFIGS:
        raise ValueError(f"no model is named '{name}'{nearest(name, list(CONFIGS))}")
    options = [field.name for field in fields(ViTConfig)]
    for option in overrides:
        if option not in options:
            raise ValueError(f"a model has no option '{option}'{nearest(option, options)}")
    return replace(CONFIGS[name], **overrides)


def create_model(
    name: str, *, num_classes: int = 1000, img_size: int | None = None, in_chans: int = 3, **overrides: object
) -> VisionTransformer:
    """A new model with random weights.

    Args:
        name: one of `list_models()`.
        num_classes: classes K of the head; 0 for none.
        img_size: height and width of the images in pixels; the model's own unless given.
        in_chans: colour channels of the images.
        overrides: any other option of `ViTConfig`.

    Raises:
        ValueError: for an unknown name or option, or a size that patches do not tile.
    """
    if img_size is not None:
        overrides["img_size"] = img_size
    return VisionTransformer(model_config(name, num_classes=num_classes, in_chans=in_chans, **overrides))
