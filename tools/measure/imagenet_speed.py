"""Measure how fast the papers' recipes train at ImageNet's size, a slice of an epoch each, and record it.

    python -m tools.measure.imagenet_speed --photos FOLDER          the three papers' recipes, as they stand
    python -m tools.measure.imagenet_speed --steps 8 --total-batch 16 --batch-size 16       a trial on a CPU

The images are those below FOLDER, over and over under the names of a thousand classes; drawn ones unless given. Options
of `deepvit-edu train` that are not among those here change the recipes. What
is measured is reading, decoding, augmenting and training, but not a slow disk.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deepvit_edu import cli
from deepvit_edu.records import load_measurement, save_measurement
from deepvit_edu.training.commands import setup_of
from deepvit_edu.training.pace import speed_table
from tools.contents import ROOT

RECORDS = ROOT / "book" / "records" / "measurements" / "imagenet_speed"
RECIPES = ("deepvit_32b", "t2t_vit_14", "refiner_vit_s")
NUM_CLASSES = 1000


def draw_photos(folder: Path, count: int = 64) -> list[Path]:
    """Smooth colours with some grain, of a usual photograph's size in pixels and nearly in bytes."""
    folder.mkdir(parents=True)
    generator, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
        grain = generator.normal(0, 12, (375, 500, 1))
        pixels = (np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=85)
    return paths


def make_imagenet(root: Path, photos: list[Path], images: int) -> None:
    """Links to the photographs in ImageNet's form: at least so many training images, one a class for validation."""
    endless = itertools.cycle(photos)
    for split, each in (("train", -(-images // NUM_CLASSES)), ("val", 1)):
        for label in range(NUM_CLASSES):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(each):
                (folder / f"{number}.JPEG").symlink_to(next(endless).resolve())


def find_photos(folder: Path) -> list[Path]:
    """All JPEG files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg") and path.is_file())


def measure(recipe: str, root: Path, out: Path, options: argparse.Namespace) -> dict:
    """The measurement of one trial in the new folder `out`; exits with what the training says where it fails."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
    command = [*(launch if options.processes > 1 else [sys.executable]), "-m", "deepvit_edu", "train"]
    command += ["--recipe", recipe, "--data", str(root), "--out", str(out), "--workers", str(options.workers)]
    command += ["--stop-after", str(options.steps), "--look-every", str(max(1, options.steps // 6))]
    command += passed_on(options)
    code = subprocess.run(command, check=False).returncode
    if not (out / "speed.json").is_file():
        sys.exit(f"{recipe} could not be measured: {shlex.join(command)} ended with {code}")
    return load_measurement(out / "speed.json")


def passed_on(options: argparse.Namespace) -> list[str]:
    """The options that the training has, too."""
    device = ["--device", options.device] if options.device else []
    return [*device, *options.changes]


def again(options: argparse.Namespace, recipe: str) -> str:
    """The command that measures the same, without the names of folders here."""
    photos = ["--photos", "FOLDER"] if options.photos else []
    counts = [f"--{name}={getattr(options, name)}" for name in ("steps", "processes", "workers")]
    program = ["python", "-m", "tools.measure.imagenet_speed"]
    return shlex.join([*program, *photos, "--recipes", Path(recipe).name, *counts, *passed_on(options)])


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(description=__doc__, **how)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="JPEG files below it; drawn ones unless given")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="NAME", help=f"unless given {RECIPES}")
    parser.add_argument("--steps", type=int, default=90, metavar="N", help="of the optimizer, each recipe; 90")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="a GPU each; 1")
    parser.add_argument("--workers", type=int, default=12, metavar="N", help="that read, for each process; 12")
    parser.add_argument("--device", help="cpu or cuda; the best there is unless given")
    parser.add_argument(
        "--folder",
        type=Path,
        default=RECORDS,
        help="for the records, one a recipe and hardware; the book's unless given",
    )
    return parser


def _images_per_step(recipe: str, changes: list[str]) -> int:
    training = cli.build_parser().parse_args(["train", "--recipe", recipe, *changes])
    return setup_of(training).recipe.images_per_step


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures one recipe after another; each has a record, which takes the place of an older one."""
    parser, rows = build_parser(), []
    options, options.changes = parser.parse_known_args(arguments)
    if options.steps < 2:
        parser.error(f"--steps is {options.steps}; the first ones warm up, so give at least 2")
    try:
        # A step more than is made: no epoch ends, and no evaluation comes between.
        images = (options.steps + 1) * max(_images_per_step(name, options.changes) for name in options.recipes)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        photos = find_photos(options.photos) if options.photos else draw_photos(home / "photos")
        if not photos:
            parser.error(f"there is no JPEG file below {options.photos}; name a folder of photographs")
        make_imagenet(home / "imagenet", photos, images)
        for number, name in enumerate(options.recipes):
            measured = measure(name, home / "imagenet", home / f"run{number}", options)
            rows.append({"recipe": Path(name).stem, "hardware": measured["hardware"], **measured["rows"][0]})
            slug = re.sub(r"[^a-z0-9]+", "_", f"{rows[-1]['recipe']}_{measured['hardware']}".lower())
            what = f"{len(photos)} photographs" if options.photos else f"{len(photos)} drawn images"
            more = {"images": f"{what}, over and over", "hardware": measured["hardware"]}
            path = options.folder / f"{slug}.json"
            save_measurement(path, "imagenet-speed", again(options, name), rows[-1:], **more)
            print(f"written to {path}")
    print(speed_table(rows))


if __name__ == "__main__":
    main()
