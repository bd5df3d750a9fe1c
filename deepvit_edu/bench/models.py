"""Several small models at once: one after another, stacked in one process, or in processes side by side.

An experiment trains many models, each too small to use a device fully. This measures which way trains most images per
second.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm.auto import tqdm

from ..devices import autocast, pick_precision
from ..nn.attention import legible_attention
from ..options import check_number
from ..words import align
from ..zoo import create_model
from .rounds import quartiles_text, rate_row, threads, wait_for

IN_TURN, STACKED, BESIDE = "one after another", "stacked in one process", "processes side by side"


@dataclass(frozen=True)
class Load:
    """What each model is, and how it is trained: a plain Vision Transformer on random images of 32 pixels.

    Args:
        depth, embed_dim, patch_size: of the model, which has 8 heads.
        batch_size: images a step.
        steps: in a round.
    """

    depth: int = 24
    embed_dim: int = 96
    patch_size: int = 4
    batch_size: int = 256
    steps: int = 20

    def model(self, device: str) -> nn.Module:
        """A new model in training mode."""
        sizes = {name: value for name, value in asdict(self).items() if name not in ("batch_size", "steps")}
        return create_model("cifar_vit_9x192", num_classes=10, num_heads=8, **sizes).to(device)

    def batch(self, device: str) -> tuple[Tensor, Tensor]:
        """Images (B, 3, 32, 32) and labels (B,)."""
        return torch.randn(self.batch_size, 3, 32, 32, device=device), torch.arange(self.batch_size, device=device) % 10


# The models of the experiments' plans: on a GPU, and in their CPU study.
ON_GPU, ON_CPU = Load(), Load(embed_dim=64, patch_size=8, batch_size=128, steps=4)


class Single:
    """Trains one model by AdamW."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step on a batch."""
        with autocast(images.device, pick_precision("auto", images.device)):
            logits = self.model(images)
        F.cross_entropy(logits.float(), labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Stack:
    """Trains models of one form as one whose weights have one more dimension; all see the same batch."""

    def __init__(self, models: list[nn.Module]) -> None:
        self.form = models[0]
        self.weights, self.buffers = stack_module_state(models)
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=1e-3)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step of every model on a batch."""

        def logits_of(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return functional_call(self.form, (weights, buffers), (images,))

        # Stacked, the CPU's fast attention falls back to a loop over the models; a GPU's does not.
        legible = nullcontext() if images.is_cuda else legible_attention()
        with autocast(images.device, pick_precision("auto", images.device)), legible:
            logits = vmap(logits_of, randomness="different")(self.weights, self.buffers)  # (models, B, K)
        # The sum over models: each model's gradient is that of its own mean loss.
        everyone = labels.expand(len(logits), -1).flatten()
        (len(logits) * F.cross_entropy(logits.float().flatten(0, 1), everyone)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def time_models(
    count: int, device: str = "cpu", rounds: int = 5, load: Load | None = None, progress: bool = True
) -> list[dict]:
    """Images per second, over all models, of the three ways, which take turns.

    On a CPU each process has one thread, and what runs in one process has as many threads as there are models.

    Args:
        count: models that are trained at once.
        device: "cpu", "cuda" and the like.
        rounds: how often each way is timed, after one round to warm up.
        load: what is trained; as in the experiments' plans unless given.
        progress: show a progress bar.

    Returns:
        one flat row per way: medians and quartiles, "speedup" over one after another within a round.

    Raises:
        ValueError: when `count` is not 1 to 256.
        OSError: when one of the processes ended, perhaps for lack of memory.
    """
    check_number("--models", count, whole=True, at_least=1, at_most=256)
    load = load or (ON_CPU if torch.device(device).type == "cpu" else ON_GPU)
    singles, stack = (
        [Single(load.model(device)) for _ in range(count)],
        Stack([load.model(device) for _ in range(count)]),
    )
    batch = load.batch(device)
    rates: dict[str, list[float]] = {way: [] for way in (IN_TURN, STACKED, BESIDE)}
    with threads(count), _beside(count, load, device) as train_beside:
        ways = {
            IN_TURN: lambda: [_steps(single, batch, load.steps) for single in singles],
            STACKED: lambda: _steps(stack, batch, load.steps),
            BESIDE: train_beside,
        }
        for number in tqdm(range(rounds + 1), desc="rounds", disable=not progress):
            for way, run in ways.items():
                seconds = _seconds(run)
                if number:  # the first round warms up
                    rates[way].append(count * load.steps * load.batch_size / seconds)
    what = {"models": count, **asdict(load)}
    return [{"way": way, **what, **rate_row(values, rates[IN_TURN])} for way, values in rates.items()]


def _steps(trained: Single | Stack, batch: tuple[Tensor, Tensor], count: int) -> None:
    for _ in range(count):
        trained.step(*batch)
    wait_for(batch[0].device)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def _beside(count: int, load: Load, device: str) -> Iterator[Callable[[], None]]:
    """Starts processes with one model each; returns a function that makes all of them train for a round."""
    context = get_context("spawn")  # a process that has used a GPU cannot be forked
    ends, processes = [], []
    try:
        for _ in range(count):
            near, far = context.Pipe()
            ends.append(near)
            processes.append(context.Process(target=_train_on_request, args=(far, load, device), daemon=True))
            processes[-1].start()
            far.close()  # or the end of the process would not be noticed
        yield partial(_tell_all, ends)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _tell_all(ends: list[Connection]) -> None:
    try:
        for end in ends:
            end.send("go")
        for end in ends:
            end.recv()
    except (EOFError, ConnectionError) as error:
        raise OSError("a process ended before its steps did, perhaps for lack of memory; train fewer models") from error


def _train_on_request(end: Connection, load: Load, device: str) -> None:
    torch.set_num_threads(1)
    try:
        single, batch = Single(load.model(device)), load.batch(device)
        while True:
            end.recv()
            _steps(single, batch, load.steps)
            end.send("done")
    except RuntimeError as error:  # as PyTorch says that memory is short
        sys.exit(str(error))


def models_table(rows: list[dict]) -> str:
    """The rows of `time_models` as text: medians, and in brackets the quartiles."""
    lines = [("models", "way", "images/s", "times as fast as one after another")]
    for row in rows:
        rate, ratio = quartiles_text(row, "images_per_second", 0), quartiles_text(row, "speedup", 2)
        lines.append((str(row["models"]), row["way"], rate, ratio))
    return align(lines)
