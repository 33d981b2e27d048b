"""The style file, and what a color means."""

import matplotlib.pyplot as plt
import pytest
from matplotlib import rc_params_from_file, rcParams
from matplotlib.colors import to_rgb

from dpo_numpy import figures
from toy_models.experiments import _figure

NAMED = (figures.CHOSEN, figures.REJECTED, figures.REFERENCE, figures.OPTIMUM, figures.POLICY)

# What Machado, Oliveira & Fernandes 2009 say that the eye sees whose red, green or blue cones are missing.
BLIND = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def test_the_style_file_cycles_through_the_colors():
    sheet = rc_params_from_file(figures.__file__.removesuffix(".py") + ".mplstyle", use_default_template=False)
    assert [to_rgb(color) for color in sheet["axes.prop_cycle"].by_key()["color"]] == [*map(to_rgb, figures.COLORS)]


def test_a_styled_function_leaves_the_callers_settings_alone():
    before = rcParams.copy()
    made = _figure.axes()
    assert not made.spines["top"].get_visible() and made.spines["left"].get_visible()
    assert rcParams == before
    plt.close(made.figure)


def luv(color):
    """CIE L*u*v* of linear sRGB"""
    r, g, b = color
    x, y, z = (0.4124 * r + 0.3576 * g + 0.1805 * b, 0.2126 * r + 0.7152 * g + 0.0722 * b,
               0.0193 * r + 0.1192 * g + 0.9505 * b)
    light = 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y
    whole = x + 15 * y + 3 * z
    return light, 13 * light * (4 * x / whole - 0.1978), 13 * light * (9 * y / whole - 0.4683)


@pytest.mark.parametrize("eye", [None, *BLIND])
def test_no_two_meanings_share_a_color_for_any_eye(eye):
    def seen(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        if eye:
            linear = [min(1.0, max(0.0, sum(a * b for a, b in zip(row, linear, strict=True)))) for row in BLIND[eye]]
        return luv(linear)

    assert len({to_rgb(color) for color in figures.COLORS}) == len(figures.COLORS)
    for i, one in enumerate(NAMED):
        for other in NAMED[:i]:
            apart = sum((a - b) ** 2 for a, b in zip(seen(one), seen(other), strict=True)) ** 0.5
            assert apart > 10, (one, other, apart)  # ten times what one just sees
