"""Axes of our own, or the caller's."""

import matplotlib.pyplot as plt

from toy_models.experiments import _figure


def test_axes_are_made_only_where_none_are_given():
    made = _figure.axes()
    assert _figure.axes(made) is made
    plt.close(made.figure)
