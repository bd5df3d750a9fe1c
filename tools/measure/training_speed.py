"""Measure how fast the campaign's models train on one core, and the effect of each setting: half an hour.

python -m tools.measure.training_speed   write book/records/measurements/training_cpu.json

Each way to train has its own process with one thread, and the ways take turns in every round. What is counted is
the processor's time, that of the kernel included: other work on the machine changes it little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from deepvit_edu import data
from deepvit_edu.allocator import KEEPS_MEMORY, training_environment
from deepvit_edu.bench.rounds import rate_row
from deepvit_edu.data.drawn import draw_framed_quarters
from deepvit_edu.data.shapes import CHUNK
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.engine import paired_model
from deepvit_edu.experiment.plan import arm_model
from deepvit_edu.nn import fast
from deepvit_edu.records import save_measurement
from deepvit_edu.training import Recipe, Run, make_batches
from deepvit_edu.zoo import create_model
from tools.contents import ROOT

PLAN = ROOT / "book" / "experiments" / "s1_depth_and_remedies.yml"
OUT = ROOT / "book" / "records" / "measurements" / "training_cpu.json"
ARMS = ("plain-24", "layerscale-24", "re-24", "centred-24", "refiner-24")
SHORT_MODEL = {"name": "cifar_vit_9x192", "depth": 24, "embed_dim": 64, "patch_size": 8, "init_std": 0.049}
BATCH, STEPS = 50, 4


@dataclass(frozen=True)
class Way:
    """One way to train.

    Args:
        label: entries of its row in the measurement.
        arm: of the study's plan, on the framed quarter; else a model of 17 tokens on `shapes`, with so many heads.
        heads: of the model of 17 tokens.
        keeps_memory: whether the allocator is set up as for commands that train.
        short: attention takes plain products up to this number of tokens.
        copies: processes that train at the same time.
    """

    label: dict = field(hash=False)
    arm: str | None = None
    heads: int = 4
    keeps_memory: bool = True
    short: int = fast.SHORT
    copies: int = 1

    def run(self) -> Run:
        """A run whose steps are the campaign's: drawing, forward and backward pass, optimizer."""
        recipe = Recipe(epochs=1, batch_size=BATCH, crop_padding=0, flip=0.0)
        if self.arm:
            model = paired_model(load_plan(PLAN), self.arm, seed=0, num_classes=10)
            images = data.load("framed-quarter", "train", limit=120_000)
        else:
            torch.manual_seed(0)
            model = create_model(num_classes=10, num_heads=self.heads, **SHORT_MODEL)
            images = data.load("shapes", "train")
        return Run(model, make_batches(images, images, recipe, model), recipe)


def levers(heads: int | None) -> list[Way]:
    """The levers one after the other, on the plain model of 65 tokens, or on one of 17 tokens with so many heads."""
    model = {"arm": ARMS[0]} if heads is None else {"heads": heads}
    what = {"tokens": 65, "heads": 3} if heads is None else {"tokens": 17, "heads": heads}
    steps = [
        ("none", {"keeps_memory": False, "short": 0}),
        ("memory is kept", {"short": 0}),
        ("memory is kept, plain products", {"short": 10**6}),
    ]
    return [Way({"part": "levers", **what, "lever": lever}, **model, **options) for lever, options in steps]


def parts() -> list[list[Way]]:
    """Ways that take turns, group by group; the first of a group is what the others are compared with."""
    plain, *others = (Way({"part": "arms", "arm": arm, **_sizes(arm)}, arm=arm, copies=2) for arm in ARMS)
    pairs = [[plain, other] for other in others]  # all of them at once take too much memory: 1 GB a process
    return [levers(None), levers(4), levers(8), *pairs]


def _sizes(arm: str) -> dict:
    options = arm_model(load_plan(PLAN), arm)
    return {"tokens": 65, **{name: options[name] for name in ("depth", "embed_dim", "num_heads")}}


def measure(ways: list[Way], rounds: int) -> list[dict]:
    """One row per way: medians and quartiles of images per second of a core, and the speed-up within a round."""
    rates: list[list[float]] = [[] for _ in ways]
    with ExitStack() as stack:
        trainers = [stack.enter_context(training(way)) for way in ways]
        for number in range(rounds + 1):
            for i, train in enumerate(trainers):
                seconds = train()
                if number:  # the first round warms up
                    rates[i].append(len(seconds) * STEPS * BATCH / sum(seconds))
    return [{**way.label, **rate_row(own, rates[0])} for way, own in zip(ways, rates, strict=True)]


@contextmanager
def training(way: Way) -> Iterator[Callable[[], list[float]]]:
    """Starts a way's processes; yields a function that makes them train for a round and returns their seconds.

    Raises:
        OSError: when a process ended, perhaps for lack of memory.
    """
    environment = training_environment(threads=1)
    if not way.keeps_memory:
        environment = {name: value for name, value in environment.items() if name not in KEEPS_MEMORY}
    command = [sys.executable, "-m", "tools.measure.training_speed", "--worker", json.dumps(asdict(way))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) for _ in range(way.copies)]

    def train() -> list[float]:
        try:
            for process in processes:
                process.stdin.write(f"{STEPS}\n")
            return [float(process.stdout.readline()) for process in processes]
        except (BrokenPipeError, ValueError) as error:
            raise OSError("a process ended before its steps did; its message stands above") from error

    try:
        yield train
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def work(way: Way) -> None:
    """The loop of a process: it reads a number of steps, trains them, and prints the CPU time in seconds."""
    torch.set_num_threads(1)
    fast.SHORT = way.short
    run = way.run()
    for steps in sys.stdin:
        start = time.process_time()
        for _ in range(int(steps)):
            run.train_step().item()
            run.progress.step += 1
        print(time.process_time() - start, flush=True)


def drawing(rounds: int) -> dict:
    """A row on how fast images are drawn, which the steps of the other rows have in them."""
    rates = []
    for number in range(rounds + 1):
        start = time.process_time()
        draw_framed_quarters(0, "train", number)
        rates.append(CHUNK / (time.process_time() - start))
    return {"part": "drawing", **rate_row(rates[1:], rates[1:])}


def main() -> None:
    """Measure all parts, print them and write the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="of each part (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(Way(**json.loads(options.worker)))
        return
    if options.rounds < 1:
        sys.exit(f"--rounds is {options.rounds}; at least 1 is measured")
    torch.set_num_threads(1)
    rows = [drawing(options.rounds)]
    for ways in parts():
        for row in measure(ways, options.rounds):
            print(json.dumps(row), flush=True)
            rows.append(row)
    save_measurement(
        options.out,
        "training",
        f"python -m tools.measure.training_speed --rounds {options.rounds}",
        rows,
        threads=1,
        allocator=" ".join(f"{name}={value}" for name, value in KEEPS_MEMORY.items()),
        libc=" ".join(platform.libc_ver()),
        load=list(os.getloadavg()),
    )


if __name__ == "__main__":
    main()
