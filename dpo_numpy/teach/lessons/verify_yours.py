"""12: a kit."""

from ..exercises import Exercise

EXERCISES: tuple[Exercise, ...] = ()
