"""Ctrl-C at a chosen moment of a training."""

from training.events import EpochDone, Event, Report, StepDone


def interrupt_after(epoch: int, *, step: int | None = None) -> Report:
    """What is reported to it stops the run after an epoch (from 1), or after a step (from 1) of that epoch."""

    def report(event: Event) -> None:
        match event:
            case StepDone() if (event.epoch, event.step) == (epoch, step):
                raise KeyboardInterrupt
            case EpochDone() if (event.epoch, None) == (epoch, step):
                raise KeyboardInterrupt

    return report
