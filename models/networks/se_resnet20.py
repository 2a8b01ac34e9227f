"""ResNet-20 with squeeze and excitation in every block."""

from torch import nn

from models.networks.blocks import SqueezeExcitation
from models.networks.resnet import ResNet20


class SEResNet20(ResNet20):
    """The ResNet-20 of He et al. with the blocks of Hu et al., Squeeze-and-Excitation Networks (2018), fig. 3.

    `reduction` is the paper's r (section 6.1). It recommends 16 for networks of 256 channels and more; with the 16 to
    64 channels of this one that would leave one unit, so 4 is the default.
    """

    def __init__(self, *, channels: int, height: int, width: int, classes: int, reduction: int = 4) -> None:
        if not 1 <= reduction <= 16:
            raise ValueError(f"reduction is {reduction}; it must be between 1 and 16, the fewest channels here")
        self._reduction = reduction  # before the blocks, which are built with it
        super().__init__(channels=channels, height=height, width=width, classes=classes)

    def attention(self, channels: int) -> nn.Module:
        """The block's squeeze and excitation."""
        return SqueezeExcitation(channels, reduction=self._reduction)
