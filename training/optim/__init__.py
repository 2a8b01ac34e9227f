"""Optimizers, schedules, weight averaging and freezing."""
