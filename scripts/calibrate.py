"""Train a ResNet-18, whose accuracy on CIFAR-10 is well known, on the same files: what the files themselves cost.

python scripts/calibrate.py                            100 epochs, as in book/experiments/e7_recipes.yml: for a GPU
python scripts/calibrate.py --epochs 1 --limit 500 --out runs/trial    a trial of the command, in minutes
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree

import timm
import torch
from torch import Tensor, nn

from contents import ROOT
from deepvit_edu import data
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.plan import Job, arm_recipe
from deepvit_edu.records import save_record
from deepvit_edu.train import train


@dataclass(frozen=True)
class CnnConfig:
    """What the training loop has to know of a model."""

    num_classes: int
    img_size: int


class SmallImageResNet(nn.Module):
    """timm's ResNet-18 for images of 32 pixels: its first convolution has 3 taps and no stride, and nothing is pooled.

    (B, 3, H, W) -> (B, K).
    """

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.config = config
        self.resnet = timm.create_model("resnet18", num_classes=config.num_classes)
        self.resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.resnet.maxpool = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Class logits."""
        return self.resnet(images)


def main() -> None:
    """Train and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="cifar10 or cifar100, or any data set (default: cifar10)")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the images (default: 100)")
    parser.add_argument("--limit", type=int, help="training images at most (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    parser.add_argument("--out", type=Path, help="folder for the record and the checkpoint (default: book/records)")
    given = parser.parse_args()
    plan = load_plan(ROOT / "book" / "experiments" / "e7_recipes.yml")
    recipe = replace(arm_recipe(plan, Job("patches", given.seed), None), epochs=given.epochs)
    name = f"calibration_{given.data}_s{given.seed}"
    out = given.out or ROOT / "book" / "records"
    workspace = out / ".unfinished" / name
    try:
        train_set = data.load(given.data, "train", limit=given.limit)
        test_set = data.load(given.data, "test", limit=given.limit)
        torch.manual_seed(given.seed)
        model = SmallImageResNet(CnnConfig(train_set.num_classes, train_set.img_size))
        record = train(model, train_set, test_set, recipe, name="resnet18", out=workspace, resume=True)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"calibrate: {error}")
    print(f"{save_record(record, out / f'{name}.json')}: accuracy {record['test_accuracy']:.2%}")
    rmtree(workspace)


if __name__ == "__main__":
    main()
