"""The zoo's models under timm's roof: `timm.create_model("deepvit_32b")` builds ours."""

import warnings
from collections.abc import Callable
from functools import partial

import timm.models as timm_models
from torch import nn

from .zoo import CONFIGS, create_model, default_cfgs, square_side

__all__ = ["default_cfgs", "register_with_timm"]  # timm looks for the first in this file, and adds every model's name


def _timm_builder(name: str) -> Callable[..., nn.Module]:
    def build(
        pretrained: bool = False,
        out_indices: int | tuple[int, ...] = 3,
        pretrained_cfg: timm_models.PretrainedCfg | dict | None = None,
        pretrained_cfg_overlay: dict | None = None,
        **options: object,
    ) -> nn.Module:
        if pretrained and not _names_weights(pretrained_cfg, pretrained_cfg_overlay):
            raise ValueError(
                f"weights of {name} cannot be downloaded; create it with pretrained=False and read the authors' file "
                "with deepvit_edu.checkpoints.load_official(model, path)"
            )
        side = square_side(options.get("img_size", CONFIGS[name].img_size))
        overlay = {"input_size": (options.get("in_chans", 3), side, side), **(pretrained_cfg_overlay or {})}
        features = {"out_indices": out_indices, "feature_cls": "getter"}
        new = partial(create_model, name)
        cfg = {"pretrained_cfg": pretrained_cfg, "pretrained_cfg_overlay": overlay}
        return timm_models.build_model_with_cfg(new, name, pretrained, feature_cfg=features, **cfg, **options)

    build.__name__ = build.__qualname__ = name
    return build


def _names_weights(cfg: timm_models.PretrainedCfg | dict | None, overlay: dict | None) -> bool:
    """Whether timm's options say where the weights are, as by `local-dir:FOLDER` or `{"file": PATH}`."""
    known = {**(cfg.to_dict() if isinstance(cfg, timm_models.PretrainedCfg) else cfg or {}), **(overlay or {})}
    return any(known.get(place) for place in ("file", "state_dict", "url", "hf_hub_id"))


def register_with_timm() -> None:
    """Gives timm every name of `CONFIGS`; those that timm has for other models stay timm's, with one warning."""
    for name in CONFIGS:
        if not timm_models.is_model(name):
            globals()[name] = timm_models.register_model(_timm_builder(name))
    taken = [name for name in CONFIGS if timm_models.model_entrypoint(name).__module__ != __name__]
    if taken:
        warnings.warn(
            f"timm has models of its own named {', '.join(taken)}, so timm.create_model builds timm's; "
            "deepvit_edu.create_model builds ours",
            stacklevel=2,
        )


register_with_timm()
