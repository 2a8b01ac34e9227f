"""`torchrun --nproc-per-node N -m training MODEL --data DATASET ...`: `convscope train` with N processes."""

import sys
import warnings

from convscope import main

if __name__ == "__main__":
    # For convolutions with one input channel, whose strides are ambiguous; harmless.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    main(["train", *sys.argv[1:]])
