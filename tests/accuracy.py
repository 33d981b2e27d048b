"""Writes docs/accuracy.md: the worst error of every loss against the oracle, in units of unavoidable rounding.

    python tests/accuracy.py [BATCHES]     # batches of 4 comparisons for each of five kinds of numbers; 40

`tests/test_losses.py` holds every loss to the same units, and `LIMIT` there says where 4 are not met, and why.
"""

import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import test_losses
from strategies import REGIMES

from dpo_numpy.losses import LOSSES

PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
OPENING = """# Accuracy

The largest error of value or gradient of each loss against the papers' formulas in `mpmath`, whose precision grows
until it no longer matters (`tests/oracle.py`). Hyper-parameters are drawn anew for each batch, conventions among them;
numbers are ordinary, at policy = reference, with margins up to 1e4, log-probs from -1e5 to -1e-300 and exactly 0, tied;
lengths from 1 to 1e5: {batches} batches of 4 comparisons of each kind, in float64 and in float32.

An error of 1 is what cannot be avoided: the distance by which the exact answer moves when each floating-point input
moves by one unit in its last place, or a unit in the last place of the answer if that is more. (Hyper-parameters and
lengths count as exact. Below the smallest normal number, the smallest subnormal times what multiplies it. A sum of
terms is good to a unit in the last place of its largest term.) The limit is 4; where it cannot be met, the column says
what is allowed and the note why. Infinities are checked to be those of the exact answer, with its sign.

`python tests/accuracy.py` makes this page; the numbers here are those of NumPy {numpy} on {machine}.

| loss | float64 | float32 | limit | |
| --- | --- | --- | --- | --- |
"""
NOTES = {
    "f_dpo": "z = β (f'(u_w) - f'(u_l)) hangs, where f' levels off, on hyper-parameters and no digit of the inputs; "
             "e^-z then has as many units as z",
    "alphapo": "z = β (e^-αb - e^-αa)/α - γ: as in `f_dpo_alpha`",
    "exo": "(z - z₀)² where z is 0: z₀ is rounded, and squared; ε is known by z₀ alone, so that where ε is 1e-30 "
           "it is up to 16",
    "apo_down": "a product of six factors",
    "reward_rpo": "a product of six factors; 4.6 in another sample",
    "simpo": "of a smoothed label σ(z) - (1 - ε) may be a fifth of its terms, and z was rounded with the lengths; 4.6 "
             "where NumPy uses AVX-512",
    "nca_listwise": "the root of the slope, log Kq, is rounded",
}


def measured(name: str, batches: int) -> list[float]:
    test_losses.LIMIT = dict.fromkeys(LOSSES, np.inf)
    with np.errstate(all="ignore"):
        return [test_losses.against_oracle(name, dtype, batches, seed=1, exactly=True)[0]
                for dtype in (np.float64, np.float32)]


def row(name: str, found: list[float]) -> str:
    limit = test_losses.LIMIT.get(name, 4)
    note = "" if limit == 4 else NOTES.get(name, NOTES["f_dpo"])
    return f"| `{name}` | {found[0]:.1f} | {found[1]:.1f} | {limit} | {note} |\n"


def page(batches: int) -> str:
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(LOSSES, pool.map(measured, LOSSES, [batches] * len(LOSSES)), strict=True))
    worst = max(max(found[name]) for name in LOSSES if name not in test_losses.LIMIT)
    met = len(LOSSES) - len(test_losses.LIMIT)
    closing = f"\n{met} losses of {len(LOSSES)} stay within 4 ({worst:.1f} at most), {len(REGIMES)} kinds of numbers.\n"
    head = OPENING.format(batches=batches, numpy=np.__version__, machine=platform.machine())
    return head + "".join(row(name, found[name]) for name in LOSSES) + closing


if __name__ == "__main__":
    text = page(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
