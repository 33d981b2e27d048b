"""What n comparisons cost, for a table: the 1/n laws of loss and regret of the DPO policy that is fitted to them.

    √n (r̂ - r) -> N(0, F⁺ V F⁺)        E[L(û) - L(u)] ≈ tr(F⁺ V)/(2n)        E[J* - J(π̂)] ≈ tr(S F⁺ V F⁺)/(2βn)

n comparisons are drawn from wins (..., K, K), divided by its sum: entry [i, j] is how often i is met and preferred to
j. r are the rewards that fit wins best, û = r̂/β the log-ratios that fit the n comparisons (`population.newton`). With
m = rᵢ - rⱼ and W = wins + winsᵀ, of sum 1 over the pairs,

    F = the Laplacian of W[i, j] σ(m) σ(-m)         the curvature of L in r, `population.hessian` at β = 1
    V = the Laplacian of wins[i, j] σ(-m)² + wins[j, i] σ(m)²        the scatter of a comparison's slope in r
    S = diag π* - π* π*ᵀ                            what regret makes of an error of r

Bradley-Terry labels have V = F, so that tr(F⁺ V) = K - 1 and F⁺ V F⁺ = F⁺; labels that no reward explains have another.
White 1982, "Maximum likelihood estimation of misspecified models". With few comparisons there may be no r̂: some
responses happen never to lose. Leading axes are prompts, each with n comparisons of its own.

Every function raises `ValueError` where an entry is below 0 or not finite, where the fit does not exist or is not
unique, where n or β is not a finite number above 0, or shapes do not fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from ._checks import Array, _reject, distribution, positive, same_responses, square
from .graph import laplacian, pseudoinverse
from .optimum import boltzmann, curvature
from .population import newton

__all__ = ["excess_loss", "regret"]


def excess_loss(wins: ArrayLike, n: float) -> Array:
    """E[L(û) - L(u)] ≈ tr(F⁺ V)/(2n), in nats, shape (...): (K-1)/(2n) for Bradley-Terry labels, whichever the pairs

    wins (..., K, K). L is the loss over wins/Σ wins, whose sum counts comparisons of a response with itself too: they
    are among the n.

    >>> excess_loss([[0.0, 3.0], [1.0, 0.0]], n=100).round(12)
    np.float64(0.005)
    """
    _, F_inverse, V = _information(wins)
    loss: Array = np.einsum("...ij,...ji->...", F_inverse, V) / (2 * positive("n", n))
    return loss


def regret(ref: ArrayLike, wins: ArrayLike, beta: float, n: float) -> Array:
    """E[J* - J(π̂)] ≈ tr(S F⁺ V F⁺)/(2βn), in units of reward, shape (...): π̂ = π_ref e^{r̂/β}/Z, and J is that of r

    ref (..., K), wins (..., K, K). J* - J(π̂) = β KL(π̂ || π*), see `optimum.value`: 1/β² of the variance of û, times the
    price of a nat. S vanishes where π* nears certainty.

    >>> regret([0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], beta=0.1, n=100).round(12)
    np.float64(0.05)
    """
    r, F_inverse, V = _information(wins)
    same_responses(ref=distribution("ref", ref), wins=r)
    pi = boltzmann(ref, r, beta)
    noise = F_inverse @ V @ F_inverse
    loss: Array = np.einsum("...ij,...ji->...", curvature(pi, 1 / beta), noise) / (2 * positive("n", n))
    return loss


def _information(wins: ArrayLike) -> tuple[Array, Array, Array]:
    """r, F⁺ and V"""
    wins = square("wins", wins)
    r = newton(wins, 1.0)
    total = wins.sum(axis=(-2, -1))
    _reject("the sum of wins", total, total == 0, "expected comparisons")
    share: Array = wins / total[..., None, None]
    surprise = expit(r[..., None, :] - r[..., :, None])  # σ(-m)
    scatter = share * surprise**2
    return r, pseudoinverse((share + share.mT) * (surprise * surprise.mT)), laplacian(scatter + scatter.mT)
