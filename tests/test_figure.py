"""Axes of our own or the caller's, and colors that can be told apart."""

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from toy_models.experiments import _figure


def test_axes_are_made_only_where_none_are_given():
    made = _figure.axes()
    assert _figure.axes(made) is made
    assert not made.spines["top"].get_visible() and made.spines["left"].get_visible()
    plt.close(made.figure)


def test_no_two_meanings_share_a_color():
    named = [_figure.CHOSEN, _figure.REJECTED, _figure.REFERENCE, _figure.OPTIMUM, _figure.POLICY]
    assert len({to_rgb(color) for color in named}) == 5
    assert len({to_rgb(color) for color in _figure.COLORS}) == len(_figure.COLORS)
