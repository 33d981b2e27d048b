# %% [markdown]
# # 08 · Why DPO grows verbose
#
# **Claim: where a bigram's labels pay $\lambda > 0$ for each token and for nothing else, there is an optimum
# only above a critical $\beta$, towards which answers grow without end; and there a few labels that are coin
# flips, which say nothing about length, make answers longer too, on average.** Three causes of verbosity, one
# at a time, then what is taken for a cause and is none, and which remedy mends what.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

from analytic import ngram
from dpo_numpy import figures, teach
from toy_models.experiments import EXPERIMENTS

plt.style.use(figures.STYLE)
measured = EXPERIMENTS["length"].run()
labels = EXPERIMENTS["length_of_labels"].run()

# %% [markdown]
# ## All strings at once
#
# The reference is a bigram over *a*, *b* and the end. Its strings have any length, and still $\text{E}|y|$ is
# exact: with $T$ the part of the table that goes on, $(I - T)^{-1}$ adds up the ways of going on for 0, 1, 2
# ... tokens. Tokens are counted without the end.

# %%
# rows: begin, a, b; columns: end, a, b
ref = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]])
token = np.array([[0.0, 1.0, 1.0]] * 3)  # a reward of 1 for each token, 0 for the end
quality = np.array([[0.0, 0.5, -0.5], [0.3, -0.4, 0.2], [0.0, 0.3, -0.6]])


def mean_length(weights):
    """E|y| where strings weigh the product of their tokens' weights; inf if these have no sum"""
    T = weights * [0, 1, 1]  # going on
    if abs(np.linalg.eigvals(T)).max() >= 1:
        return math.inf
    ways = np.linalg.inv(np.eye(3) - T)
    Z = ways @ weights[:, 0]  # of all strings, by the context that they begin in
    return (ways @ T @ Z / Z)[0]  # what comes before a token, the token, what comes after


assert np.isclose(mean_length(ref), ngram.expected_length(ref))
print(f"E|y| of the reference {mean_length(ref):.4f}")

# %% [markdown]
# DPO's optimum is $\pi^\star \propto \pi_{ref}\,e^{r/\beta}$. If the reward is a sum over tokens, so is the
# exponent, and $\pi^\star$ is such a product of weights. *Quality* is what we want; its optimum is shorter than
# the reference:

# %%
beta, lam = 1.0, 0.5
wanted = mean_length(ref * np.exp(quality / beta))
assert np.isclose(wanted, ngram.expected_length(ngram.optimum(ref, quality, beta)[0]))
print(f"E|y| of the optimum of quality {wanted:.4f}")

# %% [markdown]
# ## Cause 1: the labels pay for length
#
# Now let people like length a little: their labels follow quality $+\ \lambda|y|$, with $\lambda = 0.5$. Of two
# equally good answers the one that is a token longer is preferred at odds of 1.65 to 1.

# %%
paid = teach.predict("β = 1 and λ = 0.5: E|y| of the optimum, 1.9 without the gain", 3)

# %%
assert round(math.exp(lam), 2) == 1.65
paid.reveal(mean_length(ref * np.exp((quality + lam * token) / beta)), because="The gain is paid "
            "for each token: it compounds. It is what the labels ask for; no training went wrong.")

# %% [markdown]
# ## Cause 2: $\beta$ is near critical
#
# Take length alone, $\lambda$ a token. The reference's long strings get rarer by a factor $\rho$ a token, the
# spectral radius of $T$; the optimum's by $\rho\,e^{\lambda/\beta}$. It can be normalized only while that is
# below 1 (where quality counts too, $\rho$ is that of $T$ weighted by $e^{q/\beta}$):
#
# $$\beta > \beta_c = \frac{\lambda}{-\log\rho}.$$

# %%
rho = abs(np.linalg.eigvals(ref * [0, 1, 1])).max()
critical = 1 / -math.log(rho)
assert np.isclose(critical, ngram.critical_beta(ref, 1.0), rtol=1e-12)
print(f"ρ = {rho:.4f}, and for λ = 1 β_c = {critical:.6f}")

# %%
betas = critical * np.array([1.005, 1.01, 1.02, 1.04, 1.07, 1.1, 1.15, 1.3, 1.6, 2.0, 3.0])
grown = np.array([mean_length(ref * np.exp(token / b)) for b in betas])
assert (np.diff(grown) < 0).all()
assert mean_length(ref * np.exp(token / (0.999 * critical))) == math.inf
assert abs(grown[0] * (1 / critical - 1 / betas[0]) - 1) < 0.02  # E|y| grows as 1 over the distance

figure, axis = plt.subplots(figsize=(7, 3.2))
axis.plot(betas, grown, "o-", color=figures.OPTIMUM, ms=4)
axis.text(betas[4], grown[4], "  the optimum", color=figures.OPTIMUM)
axis.axhline(mean_length(ref), color=figures.REFERENCE, ls="--", lw=1)
axis.text(betas[-1], 2.5, "reference", color=figures.REFERENCE, ha="right")
axis.axvspan(1, critical, color="black", alpha=0.1, lw=0)
axis.text(1.08, 60, f"no optimum\nbelow β_c,\nwhich is {critical:.2f}")
axis.set(yscale="log", xlim=(1, 7), xlabel="β, where a token is worth 1", ylabel="E|y|, tokens");

# %%
fate = teach.predict("DPO of a bigram at β = 0.8 β_c, on strings of up to 3 tokens: E|y|",
                     "settles below 10", among=["settles below 10", "settles higher", "grows on"])

# %%
for start, (half, whole) in enumerate(measured["cold"].T, 1):
    print(f"start {start}: E|y| {half:.0f} after half of the steps, {whole:.0f} after all")
assert (measured["cold"][1] > measured["cold"][0] + 30).all()
fate.reveal("grows on", because="Short strings tell a bigram what a token is worth, and it holds "
            "for long ones. There is no optimum to arrive at.")

# %% [markdown]
# A limit on the number of tokens hides this and does not mend it: the answers then pile up at the limit.

# %%
limit, short = measured["longest"], measured["pinned"]
print(f"β = β_c/2, at most {limit} tokens: E|y| is {short:.2f} short of the limit")
assert short < 2

# %% [markdown]
# ## Cause 3: noise
#
# The labels are coin flips. They know nothing, of length or anything else. Each data set has a mirror image,
# all of its labels turned over: if DPO fits the reward $\hat r$ to one, it fits $-\hat r$ to the other. Take
# the mean of $\text{E}|y|$ over the two.

# %%
width = 4.2  # β √n, which decides: r̂ is of the order 1/√n, log-ratios are r̂/β
coins = teach.predict(f"200 labels by coin, β = {width / math.sqrt(200):.2f}: E|y| at the minimum "
                      "of DPO's loss, mean of a data set and its mirror image (the median of 300 "
                      "such means; reference: 2.3)", 2.3)

# %%
each = measured["coin_length"]  # data sets, widths; inf where there is no minimum
means = (each + measured["coin_mirrored"])[:, measured["width"] == width] / 2
assert math.isclose(mean_length(ref), 2.3)
print(f"of the 300 means {(means > 2.3).mean():.0%} are above the reference")
coins.reveal(float(np.quantile(means, 0.5, method="inverted_cdf")), because="Noise is as often up "
             "as down, but going on more gains more tokens than going on less can lose.")

# %%
for noise in (0.1, 0.2, 0.3):
    up, down = (mean_length(ref * np.exp(sign * noise * token)) for sign in (1, -1))
    print(f"{noise:.1f} nats a token: up {up:.2f}, down {down:.2f}, mean {(up + down) / 2:.2f}")
    assert (up + down) / 2 > mean_length(ref)

# %%
low, middle, high = np.quantile(each, (0.1, 0.5, 0.9), axis=0, method="inverted_cdf")
assert (middle > 2.3).all() and (low < 2.3).all()  # without mirror images: not each, but most
figure, axis = plt.subplots(figsize=(7, 3.2))
axis.fill_between(measured["width"], low, np.minimum(high, 100), color=figures.POLICY, alpha=0.3)
axis.plot(measured["width"], np.minimum(middle, 100), "o-", color=figures.POLICY, ms=4)
axis.text(3.6, 3.7, "median", color=figures.POLICY)
axis.text(9, 1.45, "80% of the data sets", color=figures.POLICY)
axis.axhline(2.3, color=figures.REFERENCE, ls="--", lw=1)
axis.text(100, 2.45, "reference", color=figures.REFERENCE, ha="right")
axis.set(xscale="log", yscale="log", ylim=(1.3, 60), xlabel="β √n", ylabel="E|y|, tokens")
axis.set_xticks(ticks := [2, 5, 10, 20, 50, 100], ticks)
axis.set_yticks(ticks := [2, 3, 5, 10, 20, 50], ticks)
axis.minorticks_off()

# %% [markdown]
# Once it is small, what noise adds falls as $1/\beta^2$; and, as $\hat r$ is of the order $1/\sqrt n$, as
# $1/n$. On average over data sets and mirror images of 200 labels, at three $\beta$:

# %%
wide = measured["width"] >= 30
added = (each + measured["coin_mirrored"])[:, wide].mean(axis=0) / 2 - 2.3
scaled = added * measured["width"][wide] ** 2
assert np.ptp(scaled) < 0.1 * scaled.mean()
print("β²n times what noise adds, for β√n = 30, 55, 100:", *(f"{x:.1f}" for x in scaled))

# %% [markdown]
# ## No cause: that chosen answers are longer
#
# "The chosen are longer on average, so the policy gets longer." What counts is the optimum of the labels'
# reward, and training can even set out in the other direction.

# %%
gap, ends = measured["chosen_longer"][0], measured["turning_length"][0]
longer = teach.predict(f"other labels, whose chosen are {-gap:.2f} tokens *shorter* on average; "
                       "β = 0.3. The optimum, beside the reference, is", "shorter",
                       among=["shorter", "longer"])

# %%
step, length = measured["path"].T
for k in (0, 2, 13, -1):
    print(f"E|y| after {step[k]:3.0f} steps: {length[k]:.2f}")
assert gap < 0 and length.min() < 2.3 < length[-1]
longer.reveal("longer" if ends > 2.3 else "shorter", because=f"The optimum has {ends:.2f}. Of what "
              "the reference says often, short answers are better; but the best of all are long.")

# %% [markdown]
# ## What mends what
#
# R-DPO takes $\alpha|y|$ off the reward. With $\alpha = \lambda$ the gain is gone, exactly, whatever the
# quality:

# %%
mended = ref * np.exp((quality + lam * token - lam * token) / beta)
print(f"E|y| of the optimum {mean_length(mended):.4f}")
assert np.isclose(mean_length(mended), wanted) and labels["kl_all_r_dpo"] < 1e-10
assert abs(labels["wrong_alpha"] - 1) < 1e-3  # other α lose (α - λ)² Var|y|/(2β), nearly

# %% [markdown]
# A bigram that is trained by R-DPO ends there too (its KL to that optimum is asserted). But $\lambda$ must be
# known. Other remedies do not ask for it. Here they meet on all strings of up to 4 tokens, each with the best
# value of one hyper-parameter: $\beta$, or for LD-DPO, at $\beta = 1$, the weight of what the longer answer has
# beyond the shorter one. (With $\beta$ free too it could not lose to DPO, which it is at weight 1.)

# %%
best = teach.predict("which loses least of J of quality where labels have the gain?", "LN-DPO",
                     among=["SimPO", "LN-DPO", "LD-DPO", "DPO, larger β"])

# %%
titles = {"r_dpo": "R-DPO, α = λ", "dpo": "DPO, larger β", "ln_dpo": "LN-DPO", "ld_dpo": "LD-DPO",
          "simpo": "SimPO"}
lost = {name: float(labels[f"best_regret_{name}"]) for name in titles}
free = {name: float(labels[f"unbiased_best_regret_{name}"]) for name in titles}
assert max(abs(x) for x in (lost["r_dpo"], free["r_dpo"], free["dpo"], free["ld_dpo"])) < 1e-12

figure, axis = plt.subplots(figsize=(7, 3.2))
rows = np.arange(len(titles))
axis.barh(rows - 0.2, lost.values(), 0.38, color=figures.COLORS[1])
axis.barh(rows + 0.2, free.values(), 0.38, color="white", edgecolor="black", hatch="///")
for k, name in enumerate(titles):
    for value, place in ((lost[name], -0.2), (free[name], 0.2)):
        axis.text(value, k + place, f" {abs(value):.2f}", va="center", fontsize=9)
axis.text(0.24, 1, "solid: labels with the gain\nhatched: labels without", ha="right", va="center")
axis.set_yticks(rows, titles.values())
axis.set(xlabel="J* - J of quality, each at its best setting")
axis.invert_yaxis()
others = [name for name in titles if name != "r_dpo"]
best.reveal(titles[min(others, key=lost.get)], because="In this world. Dividing by length fits "
            "a log-ratio per token, as if a reward were earned once for each token of the answer: "
            "that costs where there is no bias, too (hatched).")

# %% [markdown]
# | cause | mended by | not by |
# |---|---|---|
# | labels pay for length | R-DPO, $\alpha = \lambda$ | dividing by length: in part |
# | $\beta$ near critical | a larger $\beta$, a smaller gain | a limit, more training |
# | noise | more labels, a larger $\beta$ | R-DPO: there is no gain to take off |
#
# ## Exercises
#
# Answered wrongly on purpose.

# %%
exercise = teach.exercise("length_of_the_optimum")
exercise.check(lambda p_end, lam, beta: (1 - p_end) / p_end * math.exp(lam / beta))

# %%
exercise = teach.exercise("length_labels_needed")
exercise.check(2000)

# %% [markdown]
# **Next:** [09 · distribution shift](09_distribution_shift.ipynb). **More:** the experiments
# [length](../toy_models/experiments/length.py),
# [length_of_labels](../toy_models/experiments/length_of_labels.py) and, on answers that people compared,
# [longer_wins](../toy_models/experiments/longer_wins.py); [optima of losses](../docs/optima.md).
