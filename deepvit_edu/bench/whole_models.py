"""Speed and memory of whole models: ours, the authors' arithmetic, timm's and vit-pytorch's; what each part costs.

Ours on the legible path is the authors' plain arithmetic, as in `bench/layers.py`. Time is measured in turns within one
process, memory in a process of its own for each model.
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..devices import autocast, pick_precision
from ..nn.attention import legible_attention
from ..options import check_number
from ..words import align
from ..zoo import create_model
from .layers import LEGIBLE, MODES, OTHER
from .rounds import quartiles_text, rate_row, threads, wait_for

OURS, TIMM = "ours", "timm"


@dataclass(frozen=True)
class Case:
    """One model on one path.

    Args:
        build: makes the model; a function that another process finds by its name, or a `partial` of one.
        legible: form every attention map step by step, as the authors' code does.
        needs: the package that `build` imports, where that is optional.
    """

    build: Callable[[], nn.Module]
    legible: bool = False
    needs: str = ""

    def new(self, training: bool, device: torch.device) -> nn.Module:
        """A new model on the device, in training or evaluation mode."""
        torch.manual_seed(0)
        return self.build().to(device).train(training)

    def run(self, model: nn.Module, images: Tensor) -> None:
        """One forward pass over images (B, 3, H, W); in training mode also the loss and the backward pass."""
        with (
            legible_attention() if self.legible else nullcontext(),
            torch.set_grad_enabled(model.training),
            autocast(images.device, pick_precision("auto", images.device)),
        ):
            by_token = model.training and getattr(model, "dense_head", None) is not None
            outputs = model.forward_dense(images) if by_token else (model(images),)
        if model.training:
            sum(loss_of(logits) for logits in outputs).backward()


def loss_of(logits: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K) or (B, N, K) with class 0; which class is the same to the clock."""
    flat = logits.float().flatten(0, -2)
    return F.cross_entropy(flat, flat.new_zeros(len(flat), dtype=torch.long))


@dataclass(frozen=True)
class Group:
    """Cases that are timed in turns, by name, and compared with the first of them.

    Args:
        title: what they have in common.
        about: "code" for one model computed in several ways, "part" for models that differ in a part.
        cases: by name.
    """

    title: str
    about: str
    cases: dict[str, Case]


def ours(name: str, **overrides: object) -> Case:
    """A model of the zoo, with options of `ViTConfig` replaced."""
    return Case(partial(create_model, name, **overrides))


def both_paths(name: str) -> dict[str, Case]:
    """A model of the zoo by plain arithmetic, and as it is."""
    return {LEGIBLE: Case(ours(name).build, legible=True), OURS: ours(name)}


def other(module: str, kind: str, **sizes: int) -> dict[str, Case]:
    """vit-pytorch's model of that class, at 224 pixels."""
    return {OTHER: Case(partial(_other_model, module, kind, **sizes), needs="vit_pytorch")}


def _other_model(module: str, kind: str, **sizes: int) -> nn.Module:
    build = getattr(import_module(f"vit_pytorch.{module}"), kind)
    return build(image_size=224, num_classes=1000, **sizes)


_VIT_16B = {"depth": 16, "num_heads": 12, "mlp_ratio": 3.0}  # for timm's vit_small, which has 384 channels, too
_OTHER_16B = {"patch_size": 16, "dim": 384, "depth": 16, "heads": 12, "dim_head": 32, "mlp_dim": 1152}
_OTHER_T2T = {"dim": 384, "depth": 14, "heads": 6, "dim_head": 64, "mlp_dim": 1152}
_ALL_TOKENS = {"selection": "none", "selection_before": (), "keep_ratio": 1.0}


def _refined(expansion: int, kernel_size: int) -> Case:
    options = {"expansion": expansion, "kernel_size": kernel_size}
    return ours("vit_16b", attention=("refined",), attention_options=options)


GROUPS = (
    Group(
        "ViT, 16 blocks",
        "code",
        {
            **both_paths("vit_16b"),
            TIMM: Case(partial(timm.create_model, "vit_small_patch16_224", **_VIT_16B)),
            **other("vit", "ViT", **_OTHER_16B),
        },
    ),
    Group("DeepViT, 16 blocks", "code", {**both_paths("deepvit_16b"), **other("deepvit", "DeepViT", **_OTHER_16B)}),
    Group("T2T-ViTt-14", "code", {**both_paths("t2t_vit_t_14"), **other("t2t", "T2TViT", **_OTHER_T2T)}),
    Group("Refiner-ViT-S", "code", both_paths("refiner_vit_s")),
    Group("LV-ViT-S", "code", both_paths("lvvit_s")),
    Group(
        "DeiT-S",
        "code",
        {
            LEGIBLE: Case(ours("dynamicvit_deit_s", **_ALL_TOKENS).build, legible=True),
            OURS: ours("dynamicvit_deit_s", **_ALL_TOKENS),
            TIMM: Case(partial(timm.create_model, "deit_small_patch16_224")),
        },
    ),
    Group("DynamicViT-DeiT-S", "code", both_paths("dynamicvit_deit_s")),
    Group("Evo-ViT-S", "code", both_paths("evo_deit_s")),
    Group(
        "Re-attention",
        "part",
        {
            "plain attention": ours("vit_16b"),
            "heads mixed": ours("deepvit_16b", attention_options={"norm": "none"}),
            "heads mixed, then BatchNorm": ours("deepvit_16b"),
        },
    ),
    Group(
        "refined attention",
        "part",
        {
            "plain attention": ours("vit_16b"),
            "as many maps, no kernel": _refined(1, 1),
            "as many maps, kernels of 3×3": _refined(1, 3),
            "3 times the maps, no kernel": _refined(3, 1),
            "3 times the maps, kernels of 3×3": _refined(3, 3),
        },
    ),
    Group(
        "front end of T2T-ViT-14",
        "part",
        {
            "patches": ours("t2t_vit_14", tokens="patch"),
            "tokens to token, Performer": ours("t2t_vit_14"),
            "tokens to token, Transformer": ours("t2t_vit_t_14"),
        },
    ),
    Group(
        "token labels, LV-ViT-S",
        "part",
        {"class head alone": ours("lvvit_s", dense_head=False), "and a head on every token": ours("lvvit_s")},
    ),
    Group(
        "LayerScale, ViT of 16 blocks",
        "part",
        {"without": ours("vit_16b"), "with": ours("vit_16b", attn_scale=1e-5, mlp_scale=1e-5)},
    ),
    Group(
        "fewer tokens, DeiT-S",
        "part",
        {
            "all tokens": ours("dynamicvit_deit_s", **_ALL_TOKENS),
            "DynamicViT, keep ratio 0.7": ours("dynamicvit_deit_s"),
            "Evo-ViT, half of them wait": ours("evo_deit_s"),
        },
    ),
)
"""What is compared, at 224 pixels and 1,000 classes."""


def time_whole_models(
    batch_size: int = 8, rounds: int = 15, device: str = "cpu", groups: tuple[Group, ...] | None = None, *, quiet=False
) -> list[dict]:
    """Images per second and peak memory of every model, in eval mode (forward) and in training (a step, no optimizer).

    Args:
        batch_size: images a step, 2 or more.
        rounds: how often each is timed, after one round to warm up.
        device: "cpu", "cuda" and the like; a GPU computes in bfloat16 where it has it.
        groups: what is compared; `GROUPS` unless given. Cases whose package is not installed are left out.
        quiet: show no progress bar.

    Returns:
        one flat row per group, case and mode: images per second; "speedup" over the group's first case within a round;
        "peak_mib", of the whole process on a CPU and of its tensors on a GPU; "image_mib", what one image more takes.

    Raises:
        ValueError: for too few images.
        OSError: when a process that measured memory ended, perhaps for lack of it.
    """
    check_number("--batch-size", batch_size, whole=True, at_least=2, at_most=2**16)
    groups, where = tuple(map(_without_missing, groups or GROUPS)), torch.device(device)
    rows = []
    total = sum((rounds + 2) * len(group.cases) * len(MODES) for group in groups)
    with tqdm(total=total, desc="steps", disable=quiet) as bar:
        for group in groups:
            for mode in MODES:
                rows += _rows_of(group, mode, batch_size, rounds, where, bar.update)
    return rows


def missing_packages() -> list[str]:
    """The optional packages that cases want and that are not installed, as pip names them."""
    wanted = {case.needs for group in GROUPS for case in group.cases.values() if case.needs}
    return [name.replace("_", "-") for name in sorted(wanted) if find_spec(name) is None]


def _without_missing(group: Group) -> Group:
    here = {name: case for name, case in group.cases.items() if not case.needs or find_spec(case.needs)}
    return Group(group.title, group.about, here)


def _rows_of(
    group: Group, mode: str, batch_size: int, rounds: int, device: torch.device, step: Callable[[], object]
) -> Iterator[dict]:
    training = mode == "train"
    rates, sizes = _time_group(group, training, batch_size, rounds, device, step)
    base = next(iter(rates.values()))
    for name, case in group.cases.items():
        memory = _in_own_process(case, training, batch_size, str(device))
        step()
        yield {
            **{"about": group.about, "group": group.title, "case": name, "mode": mode},
            **{"batch_size": batch_size, "num_parameters": sizes[name]},
            **rate_row(rates[name], base),
            **memory,
        }


def _time_group(
    group: Group, training: bool, batch_size: int, rounds: int, device: torch.device, step: Callable[[], object]
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Images per second of each case in each round, and each case's number of parameters."""
    images = torch.randn(batch_size, 3, 224, 224, device=device)
    models = {name: case.new(training, device) for name, case in group.cases.items()}
    rates: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            group.cases[name].run(model, images)
            wait_for(device)
            if number:  # the first round warms up
                rates[name].append(batch_size / (time.perf_counter() - start))
            model.zero_grad()
            step()
    return rates, {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}


def _in_own_process(case: Case, training: bool, batch_size: int, device: str) -> dict[str, float]:
    context = get_context("forkserver")  # each process begins with the packages loaded, and with nothing else
    context.set_forkserver_preload([__name__])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(peak_memory, case, training, batch_size, device, torch.get_num_threads()).result()
    except BrokenProcessPool as error:
        raise OSError("a process ended before its step did, perhaps for lack of memory; take fewer images") from error


def peak_memory(case: Case, training: bool, batch_size: int, device: str, num_threads: int) -> dict[str, float]:
    """The most memory that this process held, and what an image adds to it, in MiB; wants a process of its own.

    Two steps on one image come first, of which the second finds gradients that are kept, as the last one does: so
    neither weights and gradients nor the libraries are in the difference of the peaks.
    """
    where = torch.device(device)
    with threads(num_threads):
        model = case.new(training, where)
        peaks = []
        for count in (1, 1, batch_size):
            case.run(model, torch.randn(count, 3, 224, 224, device=where))
            peaks.append(_peak_bytes(where) / 2**20)
    return {"peak_mib": peaks[-1], "image_mib": (peaks[-1] - peaks[-2]) / (batch_size - 1)}


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # Windows has none, and everything else here works there

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux KiB


def whole_models_table(rows: list[dict]) -> str:
    """The rows of `time_whole_models` as text: medians, and in brackets the quartiles."""
    lines = [("models", "case", "mode", "images/s", "times as fast as the first", "peak, MiB", "MiB an image")]
    for row in rows:
        rate, ratio = quartiles_text(row, "images_per_second", 1), quartiles_text(row, "speedup", 2)
        memory = (f"{row['peak_mib']:.0f}", f"{row['image_mib']:.1f}")
        lines.append((row["group"], row["case"], row["mode"], rate, ratio, *memory))
    return align(lines)
