"""Ctrl-C at a chosen moment of a training."""

from training.events import EpochFinished, Event, Report, StepFinished


def interrupt_after(epoch: int, *, step: int | None = None) -> Report:
    """What is reported to it stops the run after an epoch (from 1), or after a step (from 1) of that epoch."""

    def report(event: Event) -> None:
        match event:
            case StepFinished() if (event.epoch, event.step) == (epoch, step):
                raise KeyboardInterrupt
            case EpochFinished() if (event.epoch, None) == (epoch, step):
                raise KeyboardInterrupt

    return report
