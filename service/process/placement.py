"""Which GPU a worker uses: workers take turns over those there are.

The driver reads CUDA_VISIBLE_DEVICES once in a process, when it starts. So the process that starts the workers counts,
and each worker leaves itself one GPU before anything in it asks for CUDA; all code after that sees only this one.
"""

import os

from export.engines.cuda import Device, count_gpus
from service.telemetry.request_log import log

VISIBLE = "CUDA_VISIBLE_DEVICES"


def export_visible_gpus(device: Device) -> None:
    """Names every GPU that CUDA shows in the environment, for the workers that this process then starts with it."""
    if device == "cpu":
        return
    (count, _), given = count_gpus(), os.environ.get(VISIBLE)
    if given is None:
        if count > 1:
            os.environ[VISIBLE] = ",".join(map(str, range(count)))
        return
    names = [name.strip() for name in given.split(",") if name.strip()]
    if count and names[0].startswith("MIG-"):
        count = len(names)  # CUDA shows a process one part of a divided GPU, however many are named
    os.environ[VISIBLE] = ",".join(names[:count])  # CUDA takes the names before the first that is wrong


def select_gpu(worker: int | None, device: Device) -> None:
    """Leaves this worker one of the named GPUs, by its number, which begins at 1, if there are several."""
    names = os.environ.get(VISIBLE, "").split(",")
    if device == "cpu" or worker is None or len(names) < 2:
        return
    os.environ[VISIBLE] = names[(worker - 1) % len(names)]
    log.info("worker %d is placed on GPU %s, one of %d", worker, os.environ[VISIBLE], len(names))
