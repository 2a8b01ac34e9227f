"""Log lines of the process that starts the workers, about their deaths and restarts, which BentoML does not report."""

import signal
from typing import Any

from circus import watcher

from service.telemetry.request_log import log


def report_workers() -> None:
    """Makes BentoML, before it creates its watcher of the workers, take one that reports."""
    watcher.Watcher = ReportingWatcher


class ReportingWatcher(watcher.Watcher):  # type: ignore[misc]  # circus has no types
    """Circus's watcher, which logs a worker's unexpected end, and the start of its successor."""

    def __init__(self, *positions: Any, **options: Any) -> None:
        super().__init__(*positions, **options)
        self._workers: dict[int, int] = {}  # numbers by process id
        self._ended: dict[int, int] = {}  # process ids by number, of workers without a successor

    def notify_event(self, topic: str, message: dict[str, Any]) -> None:
        """Called for each event of a process; see `circus.watcher.Watcher`."""
        super().notify_event(topic, message)
        process = message.get("process_pid", 0)
        if topic == "spawn":
            worker = self._workers[process] = self.processes[process].wid
            if before := self._ended.pop(worker, None):
                log.info("worker %d (process %d) replaces process %d", worker, process, before)
        elif topic == "reap" and (worker := self._workers.pop(process, 0)) and not self.is_stopping():
            self._ended[worker] = process
            then = "another is started" if self.respawn else "BentoML starts no other in a container"
            log.error("worker %d (process %d) %s; %s", worker, process, _describe(message.get("exit_code")), then)


def _describe(exit_code: int | None) -> str:
    if exit_code is None:
        return "is gone"
    if exit_code >= 0:
        return f"ended with status {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
