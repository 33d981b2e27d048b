"""11"""
from ..exercises import Exercise
EXERCISES: tuple[Exercise, ...] = ()
