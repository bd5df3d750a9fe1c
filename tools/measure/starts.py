"""Measure networks before training: how much their maps vary, and how large their attention branch is.

python -m tools.measure.starts   write book/records/measurements/starts.json, a minute

A remedy that is tried at another size is only the same remedy if it starts the same. The authors' model of 32 blocks
and 197 tokens stands beside the arms of the studies on the framed quarter.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from deepvit_edu import data
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.engine import paired_model
from deepvit_edu.nn.model import VisionTransformer
from deepvit_edu.records import save_measurement
from deepvit_edu.zoo import create_model
from tools.contents import ROOT

PLANS = ("s1_depth_and_remedies", "p_parts_of_reattention")
OUT = ROOT / "book" / "records" / "measurements" / "starts.json"
SEEDS = range(3)
IMAGES, LARGE_IMAGES = 64, 8


@torch.no_grad()
def measure_start(model: VisionTransformer, images: Tensor) -> dict[str, float]:
    """Means over the blocks of a model in training mode, as it is, on normalised images (B, 3, H, W).

    Returns:
        "map_deviation": the standard deviation of a head's map in use (of one head's entries over the batch).
        "row_length": the length of one of its rows: deviation times the root of the tokens, were its mean zero.
        "branch_share": the root mean square of what attention adds to the stream, as a multiple of the stream's.
    """
    found: dict[str, list[float]] = {"map_deviation": [], "row_length": [], "branch_share": []}

    def see_map(_: nn.Module, __: tuple, attn: Tensor) -> None:
        found["map_deviation"].append(attn.std(dim=(0, 2, 3)).mean().item())
        found["row_length"].append(attn.norm(dim=-1).mean().item())

    def see_block(block: nn.Module, inputs: tuple) -> None:
        stream = inputs[0].square().mean().sqrt()

        def see_branch(_: nn.Module, __: tuple, branch: Tensor) -> None:
            found["branch_share"].append((branch.square().mean().sqrt() * block.branch_scale / stream).item())
            handle.remove()

        handle = block.scale1.register_forward_hook(see_branch)

    model.train()
    with ExitStack() as hooks:
        for block in model.blocks:
            hooks.callback(block.register_forward_pre_hook(see_block).remove)
            hooks.callback(block.attn.used_map.register_forward_hook(see_map).remove)
        model(images)
    return {name: fmean(values) for name, values in found.items()}


def measured_models() -> Iterator[tuple[str, VisionTransformer, Tensor]]:
    """Name, model and images: the authors' Re-attention model, and each arm of 24 blocks, for every seed."""
    some = data.load("framed-quarter", "test", limit=IMAGES)
    images = some.normalise(some.images)
    large = nn.functional.interpolate(images[:LARGE_IMAGES], 224, mode="bilinear")
    plans = [load_plan(ROOT / "book" / "experiments" / f"{name}.yml") for name in PLANS]
    arms = {arm: plan for plan in plans for arm in plan.arms if not arm.endswith(("-6", "-small"))}
    for seed in SEEDS:
        torch.manual_seed(seed)
        yield "deepvit_32b (224 pixels)", create_model("deepvit_32b"), large
        for arm, plan in arms.items():
            yield arm, paired_model(plan, arm, seed, num_classes=10), images


def main() -> None:
    """The command: measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write (default: %(default)s)")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for name, model, images in measured_models():
        rows.setdefault(name, []).append(measure_start(model, images))
    means = {name: {key: round(fmean(row[key] for row in of), 4) for key in of[0]} for name, of in rows.items()}
    for name, row in means.items():
        print(f"{name:26}", *(f"{key} {value:.3f}" for key, value in row.items()))
    table = [{"model": name, **row} for name, row in means.items()]
    save_measurement(arguments.out, "starts", "python -m tools.measure.starts", table, seeds=len(SEEDS))


if __name__ == "__main__":
    main()
