"""The deployed graph: uint8 pixels in, probabilities and logits out."""

import torch
from torch import Tensor, nn

from models.checkpoint.directory import Checkpoint
from models.images.normalize import Normalize


class Deployable(nn.Module):
    """Normalisation, the network, temperature and softmax in one module, in evaluation mode.

    The softmax of logits divided by a temperature: Guo et al., On Calibration of Modern Neural Networks (2017), eq. 9.
    """

    def __init__(self, checkpoint: Checkpoint, network: nn.Module | None = None) -> None:
        super().__init__()
        self.normalize = Normalize(checkpoint.config.input)
        self.network = checkpoint.network if network is None else network
        self.temperature = checkpoint.config.temperature
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) to probabilities and logits, float32 (N, K) each."""
        logits = self.network(self.normalize(image))  # (N, K)
        return self.probabilities(logits), logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities of logits, (N, K) each."""
        return torch.softmax(logits if self.temperature == 1.0 else logits / self.temperature, dim=1)


class DeployableWithFeatures(Deployable):
    """The same with a traced network that also returns intermediate values, which become further outputs."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # more outputs by design
        """uint8 (N, H, W, C) to probabilities, logits and then the intermediate values, (N, ...) each."""
        *values, logits = self.network(self.normalize(image))
        return (self.probabilities(logits), logits, *values)
