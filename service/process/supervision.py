"""The process that starts the workers: it logs their deaths and restarts, and no signal to end is lost."""

import signal
from typing import Any

from circus import sighandler, watcher
from circus.client import make_json

from service.telemetry.request_log import log

_AGAIN_S = 0.1


def supervise() -> None:
    """Makes BentoML, before it creates its supervisor of the workers, take our parts of it."""
    watcher.Watcher = ReportingWatcher
    sighandler.SysHandler.quit = _quit


def _quit(handler: Any) -> None:
    """Ends the server, in place of `SysHandler.quit`.

    Circus refuses a command while it runs another one, such as starting or replacing a worker, and forgets it: SIGTERM
    would do nothing. It is repeated until it is obeyed.
    """
    controller = handler.controller

    def attempt() -> None:
        if not controller.arbiter._stopping:
            controller.dispatch((None, make_json("quit")))
            controller.loop.call_later(_AGAIN_S, attempt)

    controller.loop.add_callback_from_signal(attempt)


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
