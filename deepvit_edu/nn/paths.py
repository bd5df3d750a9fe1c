"""Two ways to compute an attention: explicitly, as the chapters write it, and faster, with the same result.

A fast path computes several parts of an attention at once and calls none of them. So it may replace them only while
each is the part that the path was written for. `FAST_PATHS` has an entry for each path, keyed by the methods that it
replaces (`nn/fast.py` fills it), and `by_fast_path` compares them, and every replaced part, with the attention as it is
now.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

_explicit_only = False


class FastPath(NamedTuple):
    """A function that gives the result of some methods without calling them.

    Args:
        compute: takes the attention and the methods' arguments; returns None where it does not apply.
        parts: the submodules that it does not call: their names, dotted, and the classes that it can stand in for.
    """

    compute: Callable[..., Tensor | None]
    parts: dict[str, tuple[type, ...]]


FAST_PATHS: dict[tuple[Callable, ...], FastPath] = {}
"""From the methods that a fast path replaces, as functions, to the path."""


@contextmanager
def legible_attention() -> Iterator[None]:
    """Context manager: every attention forms its map explicitly, step by step, as the chapters write it.

    Outside it an attention takes the fastest path that gives the same output.
    """
    global _explicit_only
    before, _explicit_only = _explicit_only, True
    try:
        yield
    finally:
        _explicit_only = before


def fast_path_allowed() -> bool:
    """False within `legible_attention()`."""
    return not _explicit_only


def by_fast_path(attn: nn.Module, methods: tuple[Callable, ...], *inputs: Tensor | None) -> Tensor | None:
    """The result of the fast path that replaces these bound methods of an attention; None if no path applies.

    No path applies within `legible_attention()`, where a method or one of the replaced parts was overridden, patched,
    wrapped, parametrised or has a hook, and while torch.fx traces the model symbolically.
    """
    own = tuple(method.__func__ if getattr(method, "__self__", None) is attn else None for method in methods)
    path = FAST_PATHS.get(own)
    if path is None or _explicit_only or isinstance(inputs[0], fx.Proxy) or not _parts_are_as_written(attn, path):
        return None
    return path.compute(attn, *inputs)


def _parts_are_as_written(attn: nn.Module, path: FastPath) -> bool:
    """Whether each replaced part has an expected class, the functions of that class, and no hooks."""
    if any(getattr(nn.modules.module, f"_global_{name}", None) for name in _HOOKS):  # hooks on all modules
        return False
    for name, kinds in path.parts.items():
        part = attrgetter(name)(attn)
        kind = type(part)
        if kind not in kinds:
            return False
        if part is not None and (
            any(name in part.__dict__ for name in _CALLED)
            or any(getattr(kind, name, None) is not function for name, function in _FUNCTIONS[kind].items())
            or any(getattr(part, f"_{name}") for name in _HOOKS)
        ):
            return False
    return True


_HOOKS = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")
_CALLED = ("forward", "_conv_forward")
"""What runs when a part is called, and may be patched."""
_FUNCTIONS: dict[type, dict[str, Callable | None]] = {}
"""These functions of each class of a replaced part, as they were when it was registered."""


def register_fast_path(methods: tuple[Callable, ...], compute: Callable, **parts: type | tuple[type, ...]) -> None:
    """Lets `compute` replace these methods of an attention wherever `parts` have exactly these classes.

    Args:
        methods: the functions that it replaces, such as `(Attention.attention_map, Attention.softmax_of)`.
        compute: see `FastPath`.
        parts: the submodules that it does not call; `norm__batch` stands for `norm.batch`.
    """
    kinds = {name.replace("__", "."): kind if isinstance(kind, tuple) else (kind,) for name, kind in parts.items()}
    FAST_PATHS[methods] = FastPath(compute, kinds)
    for kind in (kind for group in kinds.values() for kind in group if issubclass(kind, nn.Module)):
        _FUNCTIONS[kind] = {name: getattr(kind, name, None) for name in _CALLED}


def traced() -> bool:
    """True while `torch.compile`, `torch.export` or `torch.jit.trace` records the operations."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Context manager: operations on a tensor's device keep the number formats of their inputs, without autocast."""
    if isinstance(tensor, fx.Proxy):  # torch.fx records no contexts
        return nullcontext()
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)  # meta knows no autocast


@contextmanager
def frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Context manager: the running statistics of a block's BatchNorms are not updated, even in training."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
