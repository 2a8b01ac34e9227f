"""`torchrun --nproc-per-node N -m training MODEL --data DATASET ...`: an older name of `-m convscope train ...`."""

import sys

from convscope import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
