"""Muon for the kernels of convolutions, AdamW for all other parameters."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.optim import AdamW, Muon, Optimizer

from models.errors import UserError


def convolution_kernels(network: nn.Module) -> list[nn.Parameter]:
    """Weights of convolutions, except grouped ones (with rows for different inputs) and weight-normed ones."""
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    kernels: dict[int, nn.Parameter] = {}  # by id, as convolutions may share weights
    for module in network.modules():
        if isinstance(module, convolutions) and module.groups == 1 and isinstance(module.weight, nn.Parameter):
            kernels[id(module.weight)] = module.weight
    return list(kernels.values())


class BatchedMuon(Muon):
    """torch's Muon, scaled to AdamW's steps, with matrices of similar shapes orthogonalised together.

    On a GPU torch's own takes longer to launch its many small kernels than the GPU takes to run them.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # as torch's own
        """One step; matrices without a gradient stay unchanged."""
        assert closure is None
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            for matrix in matrices:
                if not self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
            gradients = [matrix.grad for matrix in matrices]
            averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            updates = _orthogonal(
                torch._foreach_lerp(gradients, averages, group["momentum"]), group["ns_coefficients"], group["ns_steps"]
            )
            torch._foreach_mul_(updates, [-group["lr"] * 0.2 * max(matrix.shape) ** 0.5 for matrix in matrices])
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, updates)


class KernelMuon(Optimizer):
    """Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024), on kernels as matrices.

    A kernel is a matrix with a row per output channel. Its momentum is orthogonalised and scaled to the usual length
    of an AdamW step (Liu et al., Muon is Scalable for LLM Training (2025), section 2.2), so that one rate suits both.
    `param_groups` are AdamW's, followed by the one of the kernels.
    """

    def __init__(self, kernels: list[nn.Parameter], adamw: AdamW, *, lr: float, weight_decay: float) -> None:
        if not kernels:
            raise UserError("the optimizer muon is for convolutions without groups; this network has none")
        self.kernels, self.adamw = kernels, adamw
        for kernel in kernels:
            if _matrix(kernel.detach()).data_ptr() != kernel.data_ptr():  # strides of neither usual layout
                kernel.data = kernel.detach().contiguous()
        self.matrices = [nn.Parameter(_matrix(kernel.detach())) for kernel in kernels]  # the same memory
        self.muon = BatchedMuon(self.matrices, lr=lr, weight_decay=weight_decay)
        super().__init__([{"params": kernels, "weight_decay": weight_decay}], {"lr": lr})
        self.param_groups = [*adamw.param_groups, *self.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # as torch's own
        """One step of both, with the rates of `param_groups`; kernels without a gradient stay unchanged."""
        assert closure is None
        self.adamw.step()
        self.muon.param_groups[0]["lr"] = self.param_groups[-1]["lr"]
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad, like=kernel)
        self.muon.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both, and the settings of the kernels' group, which include the schedule's values."""
        settings = {name: value for name, value in self.param_groups[-1].items() if name != "params"}
        return {"rest": self.adamw.state_dict(), "muon": self.muon.state_dict(), "kernels": settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        self.adamw.load_state_dict(state_dict["rest"])
        self.muon.load_state_dict(state_dict["muon"])
        self.param_groups = [*self.adamw.param_groups, self.param_groups[-1] | state_dict["kernels"]]


def _orthogonal(matrices: Sequence[Tensor], coefficients: tuple[float, float, float], iterations: int) -> list[Tensor]:
    """The nearest semi-orthogonal matrices, approximately, by torch's Newton-Schulz iterations in bf16.

    Wide matrices with equally many rows, after tall ones are transposed, are padded to the same width and computed as
    one batch: columns of zeros stay zero and change no product.
    """
    a, b, c = coefficients
    found: dict[int, Tensor] = {}
    by_rows: dict[int, list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        by_rows[min(matrix.shape)].append(index)
    for indices in by_rows.values():
        parts = [_wide(matrices[index]) for index in indices]
        width = max(part.size(1) for part in parts)
        x = torch.stack([pad(part.bfloat16(), (0, width - part.size(1))) for part in parts])  # (B, R, C)
        x /= x.flatten(1).norm(dim=1).clamp(min=1e-7).view(-1, 1, 1)
        for _ in range(iterations):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        for index, part, update in zip(indices, parts, x.float(), strict=True):
            update = update[:, : part.size(1)]
            found[index] = update if part.shape == matrices[index].shape else update.T
    return [found[index] for index in range(len(matrices))]


def _wide(matrix: Tensor) -> Tensor:
    return matrix.T if matrix.size(0) > matrix.size(1) else matrix


def _matrix(kernel: Tensor, *, like: Tensor | None = None) -> Tensor:
    """(O, I, ...) as (O, I * ...), in the memory order of `like`, by default the kernel itself."""
    layout = kernel if like is None else like
    order = sorted(range(1, kernel.ndim), key=layout.stride, reverse=True)
    return kernel.permute(0, *order).flatten(1)
