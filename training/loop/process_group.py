"""The processes, started by torchrun, that train one network together; or the single process."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process in the group that trains together.

    Attributes:
        rank: from 0; the main process, which writes and reports, has rank 0.
        size: the number of processes.
        local_rank: rank on this machine, the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def shard(self, index: Tensor) -> Tensor:
        """This process's part of (N,); the parts are disjoint and complete, and differ in length by at most one."""
        return index.tensor_split(self.size)[self.rank]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def average_buffers(self, network: nn.Module) -> None:
        """Averages the running statistics of batch norms over all processes."""
        if self.size > 1:
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer /= self.size

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """Returns the main process's `make()` in every process; its error becomes a UserError in all of them."""
        if self.size == 1:
            return make()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = make()
            except (ValueError, OSError) as error:
                outcome[1] = str(error)
        distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise UserError(outcome[1])
        value: T = outcome[0]
        return value

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            distributed.barrier()

    def data_parallel(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over all processes; unchanged for a single process."""
        if self.size == 1:
            return network
        # With a static graph the first step finds the parameters that do not affect the logits, and later steps do not
        # wait for their gradients. Searching for them in every step would take time and print a warning.
        return DistributedDataParallel(network, static_graph=True)


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group(*, cuda: bool) -> Iterator[ProcessGroup]:
    """Joins the processes started by torchrun, over NCCL with CUDA and gloo without; otherwise `SINGLE_PROCESS`.

    Reads the environment variables of torchrun.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield SINGLE_PROCESS
        return
    group = ProcessGroup(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if cuda:
        torch.cuda.set_device(group.local_rank)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield group
    finally:
        distributed.destroy_process_group()
