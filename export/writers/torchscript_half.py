"""Networks in half precision: batch norms folded, weights and activations in float16 or bfloat16, channels last.

The interface is unchanged: uint8 images in, float32 probabilities and logits out. Normalisation, temperature and
softmax stay in float32, as rounding them would cost accuracy and gain nothing.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from export.writers.deployable import Deployable
from models.checkpoint.directory import Checkpoint
from models.graph.trace import trace_whole
from models.images.normalize import Normalize

HalfPrecision = Literal["fp16", "bf16"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_BATCH_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


class HalfDeployable(Deployable):
    """The deployable graph with its network in half precision.

    Args:
        checkpoint: the trained network, which stays unchanged.
        precision: fp16, or bf16, which has the range of float32 and 8 bits of precision instead of 11.
    """

    def __init__(self, checkpoint: Checkpoint, precision: HalfPrecision) -> None:
        dtype, spec = DTYPES[precision], checkpoint.config.input
        folded = fold_batch_norms(checkpoint.network, (spec.channels, spec.height, spec.width))
        super().__init__(checkpoint, folded.to(dtype).to(memory_format=torch.channels_last))
        self.normalize = Normalize(checkpoint.config.input, memory_format=torch.channels_last)
        self.dtype = dtype

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) to probabilities and logits, float32 (N, K) each."""
        logits = self.network(self.normalize(image).to(self.dtype)).float()  # (N, K)
        return self.probabilities(logits), logits


def fold_batch_norms(network: nn.Module, shape: Sequence[int] | None = None) -> nn.Module:
    """A copy in evaluation mode whose batch norms are folded into the convolutions before them.

    Folding before rounding loses less than rounding both. Shared convolutions and batch norms, batch norms without
    running statistics, and networks that cannot be traced stay unchanged.

    Args:
        shape: of one image, (channels, height, width), as in `trace_whole`.
    """
    network = copy.deepcopy(network).eval()
    try:
        graph = trace_whole(network, shape)
    except ValueError:
        return network
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        pair = _pair(node, network)
        if pair is None or uses[node.target] > 1 or uses[node.args[0].target] > 1:
            continue
        convolution, norm = pair
        network.set_submodule(node.args[0].target, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    return fx.GraphModule(network, graph).eval()


def _pair(node: fx.Node, network: nn.Module) -> tuple[Any, Any] | None:
    """The convolution and the batch norm of a node that applies a batch norm directly to a convolution's result."""
    before = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return None
    convolution, norm = network.get_submodule(str(before.target)), network.get_submodule(str(node.target))
    if not isinstance(norm, _BATCH_NORMS.get(type(convolution), ())) or norm.running_mean is None:
        return None
    return convolution, norm
