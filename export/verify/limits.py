"""The maximum deviations of an exported file from the trained network."""

from dataclasses import dataclass

LIMIT_FP32 = 1e-5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Maximum deviations of an exported file.

    Attributes:
        difference: for fp32: the maximum difference of a probability; every top-1 class must also be the same.
        accuracy_loss: for fp16, bf16 and int8: the maximum loss of test accuracy, as a share; 0.002 is 0.2 points. A
            loss up to 5 times as large is also accepted if so few images may differ by chance; see `AccuracyLoss`.
    """

    difference: float = LIMIT_FP32
    accuracy_loss: float = 0.002
