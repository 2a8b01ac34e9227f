"""Networks whose operations torch's exporter does not translate as they are, in ONNX Runtime and in messages."""

import inspect
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from models.graph.onnx_program import onnx_program, why_not_onnx
from models.graph.trace import trace

SHAPE = (3, 8, 8)


class Attending(nn.Module):
    """Attention over pixels, with or without heads."""

    def __init__(self, heads: int, **options: Any) -> None:
        super().__init__()
        self.heads, self.options = heads, options
        self.embed, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)  # (N, L, 8)
        if self.heads:
            tokens = tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
        tokens = scaled_dot_product_attention(tokens, tokens, tokens, **self.options)
        if self.heads:
            tokens = tokens.transpose(1, 2).flatten(2)
        return self.head(tokens.mean(1))


class Bessel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.special.bessel_j0(self.embed(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.7}])
def test_attention_is_converted(heads: int, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = Attending(heads, **options).eval()
    traced = trace(network, SHAPE)
    program = onnx_program(traced.module, torch.zeros(2, *SHAPE), traced, input_names=["x"], output_names=["logits"])
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.randn(count, *SHAPE)
        (found,) = session.run(["logits"], {"x": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, network(images).numpy(), atol=1e-5)


def test_what_onnx_lacks_is_named_with_its_line() -> None:
    lines, first = inspect.getsourcelines(Bessel.forward)
    number = first + next(index for index, line in enumerate(lines) if "bessel" in line)
    reason = why_not_onnx(Bessel(), SHAPE)
    assert reason.startswith("ONNX has no operation for ")
    assert f"test_onnx_program.py:{number}: `x = torch.special.bessel_j0(self.embed(x))`" in reason


def test_a_network_that_can_be_converted_has_no_reason() -> None:
    network = Attending(0)
    before = torch.get_rng_state()
    assert why_not_onnx(network, SHAPE) == ""
    assert network.training and torch.equal(torch.get_rng_state(), before)
