"""Several processes that train one network as one process would with the whole batch.

Each has its part of every batch, and PyTorch's DDP averages their gradients. Two things are needed beyond that for
the same result: parameters that no gradient reaches must stay as they are, and batch normalisation must see the whole
batch. What a network or an objective draws at random is drawn anew in each process.
"""

import torch
import torch.distributed as dist
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn


def choose_strategy(processes: int) -> DDPStrategy | str:
    """The strategy of Fabric for so many processes.

    The graph is the same at every step, which DDP must be told where parameters are idle: it would wait for their
    gradients (a ScaoedNet of one stage has such), and told so, it leaves them without any, as a single process does.
    """
    return "auto" if processes == 1 else DDPStrategy(static_graph=True)


def share_batch_norm(net: nn.Module) -> None:
    """Let every batch normalisation of ``net`` see the parts of all processes."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm  # in place: parameters, buffers and names are the same


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes, whose parts are of equal size.

    :class:`torch.nn.SyncBatchNorm` does it on GPUs alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape and type; statistics are taken in float32."""
        if not self.training:
            return super().forward(x)
        processes = dist.get_world_size()
        values = x.float()
        mean = _Sum.apply(values.mean((0, 2, 3))) / processes
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().mean((0, 2, 3))) / processes
        with torch.no_grad():
            count = processes * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes of a tensor that each has; gradients of all of them go back to each."""

    @staticmethod
    def forward(context, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
