"""Speed and memory of attention layers: the fast paths, the explicit ones, and layers of other packages.

Ours on the legible path is the authors' plain arithmetic: the map is formed, mixed by a 1×1 convolution, normed by
BatchNorm and multiplied. Plain attention, by `scaled_dot_product_attention`, is the limit of what an attention can
reach.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..nn.attention import Attention, ReAttention, RefinedAttention, legible_attention
from ..nn.refiner import ReusedAttention
from ..words import align
from .rounds import quartiles_text, with_quartiles

PLAIN, LEGIBLE, FAST, OTHER = "plain attention (the limit)", "plain arithmetic", "fast", "vit-pytorch"
MODES = ("eval", "train")


@dataclass(frozen=True)
class Shape:
    """The sizes of a layer's input: images B, tokens N, channels C; and its heads H."""

    images: int
    tokens: int
    channels: int
    heads: int

    def __str__(self) -> str:
        return f"{self.images}×{self.tokens}×{self.channels}, {self.heads} heads"


SHAPES = (Shape(8, 197, 384, 12), Shape(64, 65, 192, 6), Shape(64, 65, 192, 12))


@dataclass
class TimedLayer:
    """One layer on one path; `layer` takes tokens (B, N, C) and whatever `inputs` holds after them."""

    family: str
    path: str
    layer: nn.Module
    inputs: tuple[Tensor, ...]
    forward: Callable[..., Tensor]

    def forward_on_path(self) -> Tensor:
        """The layer's output, tokens (B, N, C)."""
        with legible_attention() if self.path == LEGIBLE else nullcontext():
            return self.forward(*self.inputs)

    def run(self, upstream: Tensor, training: bool) -> None:
        """One forward pass, and where `training` the backward pass from the output's gradient."""
        with torch.set_grad_enabled(training):
            out = self.forward_on_path()
            if training:
                out.backward(upstream)


def other_layer(shape: Shape) -> nn.Module | None:
    """vit-pytorch's DeepViT layer with as many channels per head (it has LayerNorm, no biases), or None without it."""
    try:
        from vit_pytorch.deepvit import Attention as OtherAttention
    except ImportError:
        return None
    return OtherAttention(shape.channels, heads=shape.heads, dim_head=shape.channels // shape.heads)


def timed_layers(shape: Shape, training: bool) -> list[TimedLayer]:
    """Every layer and path that is compared at one shape."""
    x = torch.randn(shape.images, shape.tokens, shape.channels, requires_grad=training)
    handed = torch.randn(shape.images, shape.heads, shape.tokens, shape.tokens).softmax(dim=-1)
    handed.requires_grad_(training)
    arms = []

    def add(family: str, layer: nn.Module | None, paths: tuple[str, ...]) -> None:
        if layer is not None:
            layer.train(training)
            chained = isinstance(layer, ReusedAttention)
            forward = (lambda x, handed: layer(x, handed)[0]) if chained else layer
            arms.extend(TimedLayer(family, path, layer, (x, handed) if chained else (x,), forward) for path in paths)

    add("re-attention", ReAttention(shape.channels, shape.heads), (LEGIBLE, FAST))
    add("re-attention", other_layer(shape), (OTHER,))
    add("re-attention", Attention(shape.channels, shape.heads), (PLAIN,))
    add("refiner, released code", ReusedAttention(shape.channels, shape.heads), (LEGIBLE, FAST))
    add("refiner, paper", RefinedAttention(shape.channels, shape.heads), (LEGIBLE, FAST))
    return arms


def saved_bytes(arm: TimedLayer) -> int:
    """What autograd keeps from the forward to the backward pass, weights apart; a storage counts once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in arm.layer.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = arm.forward_on_path()
    del out  # until here it held the graph, so that no address was used twice
    return sum(size for address, size in kept.items() if address not in weights)


def time_rounds(arms: list[TimedLayer], training: bool, rounds: int, step: Callable[[], object]) -> list[list[float]]:
    """Seconds of each arm in each round, (arms, rounds); every round runs all arms in an order of its own."""
    upstream = torch.randn_like(arms[0].inputs[0])
    seconds: list[list[float]] = [[] for _ in arms]
    for number in range(rounds + 1):
        for index in random.sample(range(len(arms)), len(arms)):
            start = time.perf_counter()
            arms[index].run(upstream, training)
            if number:  # the first round warms up
                seconds[index].append(time.perf_counter() - start)
        step()
    return seconds


def rows_of(shape: Shape, mode: str, arms: list[TimedLayer], seconds: list[list[float]]) -> Iterator[dict]:
    """One flat row per arm: milliseconds, the speed-up over its family's plain arithmetic, the memory kept."""
    base = {arm.family: times for arm, times in zip(arms, seconds, strict=True) if arm.path == LEGIBLE}
    for arm, times in zip(arms, seconds, strict=True):
        ratios = [plain / own for plain, own in zip(base[arm.family], times, strict=True)]
        yield {
            **{"images": shape.images, "tokens": shape.tokens, "channels": shape.channels, "heads": shape.heads},
            **{"mode": mode, "layer": arm.family, "path": arm.path},
            **with_quartiles("milliseconds", [1000 * second for second in times]),
            **with_quartiles("speedup", ratios),
            "rounds": len(times),
            "saved_mib": saved_bytes(arm) / 2**20 if mode == "train" else None,
        }


def run_benchmark(shapes: tuple[Shape, ...] | None = None, rounds: int = 15, progress: bool = True) -> list[dict]:
    """Times every layer at every shape, in eval mode (forward) and in training (forward and backward).

    Args:
        shapes: of the layers' inputs; `SHAPES` unless given.
        rounds: how often each is timed, after one round to warm up.
        progress: show a progress bar.

    Returns:
        one flat row per shape, mode and layer.
    """
    rows, shapes = [], shapes or SHAPES
    bar = tqdm(total=len(shapes) * len(MODES) * (rounds + 1), desc="rounds", disable=not progress)
    with bar:
        for shape in shapes:
            for mode in MODES:
                arms = timed_layers(shape, mode == "train")
                rows += rows_of(shape, mode, arms, time_rounds(arms, mode == "train", rounds, bar.update))
    return rows


def benchmark_table(rows: list[dict]) -> str:
    """The rows as text: medians, and in brackets the quartiles."""
    lines = [("shape", "mode", "layer", "path", "ms", "speed-up over plain arithmetic", "kept, MiB")]
    for row in rows:
        shape = Shape(*(row[name] for name in ("images", "tokens", "channels", "heads")))
        time_text, ratio = quartiles_text(row, "milliseconds", 1), quartiles_text(row, "speedup", 2)
        kept = "" if row["saved_mib"] is None else f"{row['saved_mib']:.1f}"
        lines.append((str(shape), row["mode"], row["layer"], row["path"], time_text, ratio, kept))
    return align(lines)
