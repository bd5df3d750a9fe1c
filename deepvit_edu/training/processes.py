"""The processes that train together: who they are, and what they tell each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.utils import world_info_from_env
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..devices import pick_device
from ..environment import variable
from ..options import check_number
from ..reading import reason
from ..signals import Interrupted

LONGEST_WAIT = 60 * 24 * 365
"""Minutes that processes may wait for one another."""

_left: list[dist.ProcessGroup] = []


@dataclass(frozen=True)
class Processes:
    """This process among `count`, and its device. Alone, everything here does nothing.

    Args:
        rank: of this process over all machines, 0 to count - 1.
        count: how many there are.
        device: what this process computes on.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are averaged over the processes."""
        if self.count == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def total(self, numbers: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.count > 1:
            numbers = numbers.clone()
            dist.all_reduce(numbers)
        return numbers

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.total(torch.tensor(int(flag))) > 0)

    def share(self, thing: Any) -> Any:
        """The first process's thing, in every process."""
        if self.count == 1:
            return thing
        held = [thing]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def gather(self, things: set) -> set:
        """The union of a set over the processes."""
        if self.count == 1:
            return things
        held: list[set] = [set()] * self.count
        dist.all_gather_object(held, things)
        return set().union(*held)

    def meet(self) -> None:
        """Waits until every process has come here."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Within it the first process goes ahead (and writes what the others then read)."""
        if not self.is_first:
            self.meet()
        yield
        if self.is_first:
            self.meet()


def are_several() -> bool:
    """Whether `torchrun` started more than this process; ValueError where it says no number of them."""
    count = variable("WORLD_SIZE", "1")
    if not count.isdecimal():
        raise ValueError(f"WORLD_SIZE is '{count}', no number of processes; start with torchrun, or unset it")
    return int(count) > 1


@contextmanager
def started(device: str | None = None, timeout_minutes: float = 10.0) -> Iterator[Processes]:
    """Joins the processes that `torchrun` started, or is alone; leaves them at the end.

    Args:
        device: "cpu" or "cuda"; the best there is unless given. Each process of a machine takes its own GPU.
        timeout_minutes: how long a process waits for the others until torch ends it.
    """
    check_number("--timeout-minutes", timeout_minutes, above=0, at_most=LONGEST_WAIT)
    chosen = _own_device(device)
    if not are_several():
        yield Processes(0, 1, chosen)
        return
    backend, ends_alike = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", False
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    except (RuntimeError, ValueError) as error:  # of what `torchrun` sets, something is missing or wrong
        raise ValueError(
            f"the processes cannot find one another ({reason(error)}); start them with torchrun"
        ) from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
        ends_alike = True
    except Interrupted:  # all stop at the same step
        ends_alike = True
        raise
    finally:
        # DDP may outlive this block and end the group while it holds Python's lock, for which gloo's threads may wait.
        _left.append(dist.group.WORLD)
        # After an error NCCL would wait here for processes that go on, and the error would be reported too late.
        if ends_alike or chosen.type != "cuda":
            dist.destroy_process_group()


def _own_device(device: str | None) -> torch.device:
    """What this process computes on: where there are several, each takes a GPU of its own."""
    if are_several() and torch.cuda.is_available() and (device is None or device.startswith("cuda")):
        local_rank, _, _ = world_info_from_env()
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"there are more processes than GPUs on this machine; start {torch.cuda.device_count()} with "
                "--nproc-per-node, and let each process see all GPUs"
            )
        device = f"cuda:{local_rank}"
    chosen = pick_device(device)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    return chosen
