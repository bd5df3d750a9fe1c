"""Measure the attention maps that the authors of DeepViT published as a picture.

python -m tools.measure.authors_picture attention_map_visualization.png   write
book/records/measurements/authors_picture.json, seconds

The picture is `figures/attention_map_visualization.png` of github.com/zhoudaquan/dvit_repo: 24 maps of a Vision
Transformer trained on ImageNet, means over heads and images, drawn by the repository's `attn_visualize.py` in the
colour map Blues. Colours are read back as numbers. That is rough: they are 8 bits deep, clipped at the dark end, and
an affine function of the maps, so only what does not change with offset and factor can be read.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from deepvit_edu.diagnostics import query_independence
from deepvit_edu.files import file_hash
from deepvit_edu.records import save_measurement
from tools.contents import ROOT

OUT = ROOT / "book" / "records" / "measurements" / "authors_picture.json"
SOURCE = "https://github.com/zhoudaquan/dvit_repo/blob/master/figures/attention_map_visualization.png"
ROWS, COLUMNS = 4, 6
MARGIN = 12  # pixels at each side of a panel: white seams, and the class token's column, which is clipped


def read_values(path: Path) -> np.ndarray:
    """The numbers behind a picture's colours (height, width), from 0, the palest of Blues, to 1, the darkest."""
    pixels = np.asarray(Image.open(path).convert("RGB")) / 255
    numbers = np.linspace(0, 1, 1024)
    palette = colormaps["Blues"](numbers)[:, :3]
    colours, where = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    nearest = [np.square(palette - colour).sum(axis=1).argmin() for colour in colours]
    return numbers[nearest][where].reshape(pixels.shape[:2])


def panels_of(values: np.ndarray) -> list[Tensor]:
    """The inside of each panel, as a map of one image and head (1, 1, height, width), block by block."""
    height, width = values.shape[0] / ROWS, values.shape[1] / COLUMNS
    inside = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            rows = slice(int(row * height) + MARGIN, int((row + 1) * height) - MARGIN)
            columns = slice(int(column * width) + MARGIN, int((column + 1) * width) - MARGIN)
            inside.append(torch.from_numpy(values[rows, columns])[None, None])
    return inside


def measure(path: Path) -> list[dict[str, float]]:
    """One row a block: what all queries share of a panel's variance, rows centred."""
    shared = [query_independence([panel]).item() for panel in panels_of(read_values(path))]
    return [{"block": block, "query_independence": round(share, 3)} for block, share in enumerate(shared)]


def main() -> None:
    """The command: reads the picture, writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the authors' picture, as a file")
    parser.add_argument("--out", type=Path, default=OUT, help="where to write (default: %(default)s)")
    args = parser.parse_args()
    command = f"python -m tools.measure.authors_picture {args.picture.name}"
    more = {"source": SOURCE, "picture_hash": file_hash(args.picture)}
    save_measurement(args.out, "authors_picture", command, measure(args.picture), **more)


if __name__ == "__main__":
    main()
