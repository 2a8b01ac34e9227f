"""Assigns GPUs to workers in rotation.

The driver reads CUDA_VISIBLE_DEVICES once per process, when it is initialised. So the process that starts the workers
lists the GPUs, and each worker selects one before it initialises CUDA; later code in it sees only this GPU.
"""

import os

from export.engines.cuda import Device, count_gpus
from service.telemetry.request_log import log

VISIBLE = "CUDA_VISIBLE_DEVICES"


def export_visible_gpus(device: Device) -> None:
    """Writes the names of all visible GPUs to the environment, for the workers that this process then starts."""
    if device == "cpu":
        return
    (count, _), given = count_gpus(), os.environ.get(VISIBLE)
    if given is None:
        if count > 1:
            os.environ[VISIBLE] = ",".join(map(str, range(count)))
        return
    names = [name.strip() for name in given.split(",") if name.strip()]
    if count and names[0].startswith("MIG-"):
        count = len(names)  # CUDA shows a process only one MIG part, however many are named
    os.environ[VISIBLE] = ",".join(names[:count])  # CUDA takes the names before the first invalid one


def select_gpu(worker: int | None, device: Device) -> None:
    """Restricts this worker to one of the named GPUs by its number, from 1, if there are several."""
    names = os.environ.get(VISIBLE, "").split(",")
    if device == "cpu" or worker is None or len(names) < 2:
        return
    os.environ[VISIBLE] = names[(worker - 1) % len(names)]
    log.info("worker %d is placed on GPU %s, one of %d", worker, os.environ[VISIBLE], len(names))
