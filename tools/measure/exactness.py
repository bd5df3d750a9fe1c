"""Our models against the authors': parameters, multiplications and outputs, as one table.

    python -m tools.measure.exactness            print the table; exit with 1 if a model differs
    python -m tools.measure.exactness --record   write book/records/measurements/exactness.json, too

The authors' numbers are in tests/reference: counts in variants.csv, answers of some models in logits_*.npz.
"""

from __future__ import annotations

import argparse
import csv
import sys
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from deepvit_edu.checkpoints import from_official
from deepvit_edu.nn.attention import legible_attention
from deepvit_edu.nn.model import VisionTransformer
from deepvit_edu.records import save_measurement
from deepvit_edu.words import align
from deepvit_edu.zoo import create_model
from tests.reference import HERE, answers, images, weights
from tools.contents import ROOT

RECORD = ROOT / "book" / "records" / "measurements" / "exactness.json"
OUTPUT_BOUND = 2e-4  # of the logits' standard deviation; two correct float32 implementations differ by about 1e-5
MACS_BOUND = 1e-3  # relative


class Published(NamedTuple):
    """A line of variants.csv: one model of the authors, at one resolution."""

    model: str
    official: str
    img_size: int
    dense_head: bool
    parameters: int
    learned: int
    gmacs: float
    reference: str  # the NAME of logits_NAME.npz, or empty

    def __str__(self) -> str:
        return f"{self.model} {self.img_size}{' dense head' if self.dense_head else ''}"


class Counts(NamedTuple):
    """Counts of a model: parameters, trainable parameters, and multiply-accumulates for one image."""

    parameters: int
    learned: int
    macs: int


def published() -> list[Published]:
    """Every line of variants.csv."""
    lines = [line for line in (HERE / "variants.csv").read_text().splitlines() if not line.startswith("#")]
    return [
        Published(
            row["model"],
            row["official"],
            int(row["img_size"]),
            row["dense_head"] == "yes",
            int(row["parameters"]),
            int(row["learned"]),
            float(row["gmacs"]),
            row["reference"],
        )
        for row in csv.DictReader(lines)
    ]


@cache
def count(model: str, img_size: int, dense_head: bool) -> Counts:
    """Counts our model, without any memory for weights or activations.

    Multiply-accumulates are those of convolutions and matrix products, attention's included (explicit path; a fused
    one would not be counted), and not those of norms, activations and softmax.
    """
    with torch.device("meta"):
        network = create_model(model, img_size=img_size, dense_head=dense_head).eval()
    parameters = list(network.parameters())
    learned = sum(p.numel() for p in parameters if p.requires_grad)
    return Counts(sum(p.numel() for p in parameters), learned, _macs(network, img_size) + _one_tap_macs(network))


@torch.no_grad()
def _macs(network: VisionTransformer, img_size: int) -> int:
    with FlopCounterMode(display=False) as counter, legible_attention():
        network(torch.empty(1, 3, img_size, img_size, device="meta"))
    return counter.get_total_flops() // 2


def _one_tap_macs(network: VisionTransformer) -> int:
    # A factor for each channel of each token, in the ghost model: a convolution to the authors, a product to us.
    tokens = network.pos_embed.shape[1]
    return tokens * sum(p.numel() for name, p in network.named_parameters() if ".cheap" in name)


def load_reference(reference: str) -> tuple[VisionTransformer, dict[str, Tensor]]:
    """Our model with the weights of the authors' reference outputs, and these weights in the authors' layout."""
    variant = next(v for v in published() if v.reference == reference)
    state_dict = weights(reference)
    with torch.device("meta"):
        model = create_model(variant.model, dense_head=variant.dense_head)
    model.load_state_dict(from_official(state_dict, variant.model), assign=True)
    return model, state_dict


@torch.no_grad()
def output_differences(model: VisionTransformer, reference: str) -> dict[str, float]:
    """The largest difference from the authors' outputs, in standard deviations of these.

    Returns:
        "eval" mode, and "batch" statistics in every BatchNorm if the authors' output with it exists (no dropout).

    Raises:
        ValueError: where the answers have another shape.
    """
    theirs, input_images = answers(reference), images()
    differences = {"eval": _difference(model.eval()(input_images), theirs["logits"])}
    if "train_logits" in theirs:
        torch.manual_seed(0)  # models that draw which tokens stay drew with this seed
        tokens = model.train().forward_features(input_images)
        differences["batch"] = _difference(model.head(tokens[:, 0]), theirs["train_logits"])
        if "train_aux_logits" in theirs:  # of the first eight patches
            dense = _difference(model.dense_head(tokens[:, 1:9]), theirs["train_aux_logits"])
            differences["batch"] = max(differences["batch"], dense)
    return differences


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"our answer has shape {tuple(ours.shape)}, the authors' {tuple(theirs.shape)}")
    return ((ours - theirs).abs().max() / theirs.std()).item()


def measure(variant: Published) -> dict:
    """A row of the table; a difference is None if it was not measured."""
    ours = count(variant.model, variant.img_size, variant.dense_head)
    differences = {}
    if variant.reference:
        differences = output_differences(load_reference(variant.reference)[0], variant.reference)
    return {
        "model": variant.model,
        "official": variant.official,
        "img_size": variant.img_size,
        "dense_head": variant.dense_head,
        "parameters": ours.parameters,
        "parameters_authors": variant.parameters,
        "learned": ours.learned,
        "learned_authors": variant.learned,
        "gmacs": round(ours.macs / 1e9, 4),
        "gmacs_authors": variant.gmacs,
        "difference_eval": differences.get("eval"),
        "difference_batch": differences.get("batch"),
    }


def is_off(row: dict) -> bool:
    """Whether a row shows a difference between our model and the authors'."""
    counts_differ = row["parameters"] != row["parameters_authors"] or row["learned"] != row["learned_authors"]
    macs_differ = abs(row["gmacs"] / row["gmacs_authors"] - 1) > MACS_BOUND
    tried = [row[key] for key in ("difference_eval", "difference_batch") if row[key] is not None]
    return counts_differ or macs_differ or not all(difference < OUTPUT_BOUND for difference in tried)


def table(rows: list[dict]) -> str:
    """The rows as text."""
    heads = ("model", "image", "dense head", "parameters", "authors'", "GMACs", "authors'", "eval", "batch", "")
    return align([heads, *map(_cells, rows)])


def _cells(row: dict) -> tuple[str, ...]:
    counts = (f"{row['parameters']:,}", f"{row['parameters_authors']:,}")
    macs = (f"{row['gmacs']:.3f}", f"{row['gmacs_authors']:.3f}")
    outputs = (_tried(row["difference_eval"]), _tried(row["difference_batch"]))
    dense_head = "yes" if row["dense_head"] else "no"
    return (row["model"], str(row["img_size"]), dense_head, *counts, *macs, *outputs, "OFF" if is_off(row) else "")


def _tried(difference: float | None) -> str:
    return "not tried" if difference is None else f"{difference:.0e}"


def main(arguments: list[str] | None = None) -> int:
    """Measures every variant and prints the table; returns 1 if a model differs, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the rows for the book")
    options = parser.parse_args(arguments)
    rows = [measure(variant) for variant in tqdm(published(), unit="model", file=sys.stderr)]
    print(table(rows))
    print(f"eval, batch: largest difference of the logits over their deviation; the bound is {OUTPUT_BOUND:.0e}")
    off = sum(map(is_off, rows))
    print(f"{off} of {len(rows)} rows are off" if off else f"all {len(rows)} rows agree")
    if options.record and not off:
        command = "python -m tools.measure.exactness --record"
        save_measurement(RECORD, "exactness", command, rows, output_bound=OUTPUT_BOUND, macs_bound=MACS_BOUND)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
