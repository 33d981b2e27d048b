# %% [markdown]
# # 09 · When distribution shift matters
#
# **Claim: which pairs are compared has no effect at all on where DPO ends, even if an answer is drawn a hundred
# thousand times less often than another, unless one of five things is amiss; each can be switched on alone.**
# First why, then the five, then what new pairs from the policy mend, and what they make worse.

# %%
import matplotlib.pyplot as plt
import numpy as np

from analytic import finite_data, loglinear, optimum, population
from dpo_numpy import figures, teach
from toy_models.experiments import EXPERIMENTS

plt.style.use(figures.STYLE)
measured = EXPERIMENTS["distribution_shift"].run()

# %% [markdown]
# ## A world of six answers
#
# Six answers at $x$ from -1 to 1; the better ones, at the right, are less likely under the reference. What DPO
# is to find is $\pi^\star \propto \pi_{ref}\,e^{r/\beta}$, and what a policy loses is
# $J^\star - J = \beta\,\text{KL}(\pi\,\Vert\,\pi^\star)$.
#
# A pair is two different draws from some policy $\mu$. "Shift" is that $\mu$ is not the reference: here
# $\mu_s \propto \pi_{ref}\,e^{-s r/\beta}$, so that $s = 0$ is the reference, $s = -1$ the optimum (on-policy
# pairs, at the end), and $s > 0$ a policy that does worse than the reference.

# %%
x, beta = np.linspace(-1, 1, 6), 0.5
reward, ref = x + 0.6 * x**2, np.exp(-0.5 * x) / np.exp(-0.5 * x).sum()
P = 1 / (1 + np.exp(reward - reward[:, None]))  # [i, j]: i is preferred to j


def sampler(s):
    mu = ref * np.exp(-s * reward / beta)
    return mu / mu.sum()


def pairs(mu):
    """[i, j]: how often i and j are compared; all pairs together weigh 1"""
    W = np.outer(mu, mu) * (1 - np.eye(len(mu)))
    return 2 * W / W.sum()


def lost(u):
    """J* - J of the policy whose log-ratios are u plus a constant"""
    pi = ref * np.exp(u) / (ref @ np.exp(u))
    return beta * optimum.kl(pi, sampler(-1)).item()


figure, axis = plt.subplots(figsize=(7, 2.8))
for s, color, mark, name, at in ((-1, figures.OPTIMUM, "o-", "s = -1: π*", (0.5, 0.5)),
                                 (0, figures.REFERENCE, "s-", "s = 0: reference", (0.1, 0.2)),
                                 (0.5, "black", "^--", "s = 0.5", (-0.75, 0.35))):
    axis.plot(x, sampler(s), mark, color=color)
    axis.text(*at, name, color=color)
axis.set(xlabel="x", ylabel="probability", ylim=(0, None));
# %% [markdown]
# ## Nothing amiss
#
# Pairs with exact labels; one logit for each answer; trained to the end. The slope of the loss in
# $u = \log\pi/\pi_{ref}$ is
#
# $$\frac{\partial L}{\partial u_i} = \beta \sum_j W_{ij}\,\bigl(\sigma(\beta(u_i - u_j)) - P_{ij}\bigr).$$
#
# $W_{ij}$ says how often $i$ and $j$ meet, $P_{ij}$ how often $i$ is then preferred. Let one answer be rare:
# drawn 8 times for a million draws of another.

# %%
def slope(u, W):
    return beta * (W * (1 / (1 + np.exp(beta * (u - u[:, None]))) - P)).sum(axis=1)


rare = np.geomspace(1, 8e-6, 6)
chain = np.eye(6, k=1) + np.eye(6, k=-1)  # each answer is compared to its neighbors alone
weights = {"reference": pairs(ref), "all alike": pairs(np.ones(6)), "rare": pairs(rare),
           "a bare chain": chain / 5}

# %%
off = teach.predict("the policy is trained to the end on such pairs: the largest error of a "
                    "probability", 0.1)

# %%
error = {}
for name, W in weights.items():
    assert abs(slope(reward / beta, W)).max() < 1e-12
    trained = population.policy(population.newton(W * P, beta), ref)  # Newton's method
    error[name] = abs(trained - sampler(-1)).max().item()
    assert error[name] < 1e-8
    print(f"{name:<13} off by less than 1e-8")
off.reveal(round(error["rare"], 8), because="At u = r/β each bracket is 0 by itself, whatever is "
           "in front of it. Weights decide on compromises, and here none is needed.")

# %% [markdown]
# So the data need not cover all pairs, nor cover them evenly: five that connect the six answers are enough.
#
# ## Five switches
#
# Each leaves one condition out; what they are follows. $J^\star - J$ against the shift, one switch at a time;
# dots are measured, lines predicted (for finite $n$ and finite steps to leading order). What is 0 has no dot,
# nor has finite $n$ at $s = 1$: there, some data sets have no minimum, as one answer wins or loses all its
# pairs.

# %%
figure, axes = plt.subplots(2, 3, figsize=(8, 4.4), sharex=True, sharey=True)
names = ["nothing amiss", *measured["channel"]]
for k, (axis, name) in enumerate(zip(axes.flat, names, strict=True)):
    if k:
        axis.plot(measured["shifts"], measured["theory"][k - 1], color="black", lw=1)
        axis.plot(measured["shifts"], measured["sweep"][k - 1], "o", color="#E69F00", ms=5)
    else:
        axis.text(0.06, 1e-2, "0 at\nevery s")
        assert measured["none"].max() < 1e-12
    axis.axvline(0, color=figures.REFERENCE, lw=1, ls=":")
    axis.set(title=name, yscale="log", ylim=(1e-5, 1))
figure.supylabel("J* - J", fontsize=11)
figure.supxlabel("s: -1 pairs of π*, 0 of the reference, 1 of π_ref exp(-r/β)", fontsize=11);

# %% [markdown]
# **Disconnected.** Two groups of answers that are never compared to each other. How much better one group is
# than the other, no label says.

# %%
apart = teach.predict("two groups, and pairs shifted from s = 0 to s = 0.5: J* - J gets", "larger",
                      among=["larger", "smaller", "neither"])

# %%
group = np.isin(np.arange(6), [0, 4, 5])
same = group[:, None] == group
u = (reward - same @ reward / same.sum(axis=1)) / beta  # descent keeps each group's mean at 0
for k, s in enumerate((0.0, 0.5)):
    assert abs(slope(u, pairs(sampler(s)) * same)).max() < 1e-12
    assert np.isclose(lost(u), measured["alone"][0, k])
bridge = same + 1e-3 * ~same
assert np.allclose(lost(population.newton(pairs(ref) * bridge * P, beta)), 0, atol=1e-9)
apart.reveal("neither", because=f"J* - J is {lost(u):.4f} whichever pairs are met within groups. "
             "The twin: let pairs across be met, be they a thousand times rarer, and it is 0.")

# %% [markdown]
# **Finite data.** $n$ labels leave, on average, about $\text{tr}(S F^+)/(2\beta n)$ of $J^\star - J$, where
# $F$ is what pairs tell of the rewards and $S$ what $J$ needs. With $n \to \infty$ it is 0 again. Here the
# pairs do matter: one that is rarely met tells little, and so does one whose label is nearly certain.

# %%
where = teach.predict("2000 labels tell most if pairs are drawn from", "the optimum",
                      among=["the reference", "half way to the optimum", "the optimum"])

# %%
noise = {}
for name, s in zip(where.among, (0.0, -0.5, -1.0), strict=True):
    noise[name] = finite_data.regret(ref, pairs(sampler(s)) * P, beta, 2000).item()
    print(f"{name:<23} J* - J = {noise[name]:.5f}")
where.reveal(min(noise, key=noise.get), because="Pairs of the reference seldom hold a good answer, "
             "and most of the optimum's hold the same one.")

# %% [markdown]
# **Wrong class.** The policy has one feature, $\log\pi/\pi_{ref} = \theta x + \dots$, and the reward bends. Now
# compromises must be made, and weights decide which. With $x^2$ as a second feature (the twin) they have no
# say.

# %%
for k, s in enumerate((0.0, 0.5)):
    wins = pairs(sampler(s)) * P
    theta = loglinear.newton(x[:, None], wins, beta)
    assert np.isclose(lost(x * theta), measured["alone"][2, k])
    bends = np.column_stack([x, x**2])
    assert lost(bends @ loglinear.newton(bends, wins, beta)) < 1e-12
    print(f"s = {s:.1f}: J* - J = {lost(x * theta):.4f}")

# %% [markdown]
# **Not Bradley-Terry.** Some preferences go around in a circle: no reward explains them. Here $C$ is added to
# $P$, such that $\sum_j W_{ij} C_{ij} = 0$ in pairs of the reference: the slope is what it was. In other pairs
# (the panel) it is not.
#
# **Finite steps.** Directions that few pairs see are learned slowly. After 30 steps from the reference (and 0
# in the end):

# %%
for k, s in enumerate((0.0, 0.5)):
    u = np.zeros(6)
    for _ in range(30):
        u = u - 2 / beta**2 * slope(u, pairs(sampler(s)))
    assert np.isclose(lost(u), measured["alone"][4, k])
    print(f"s = {s:.1f}: J* - J = {lost(u):.4f}")

# %% [markdown]
# ## New pairs from the policy
#
# The practical answer to shift is to draw new pairs from the policy, round after round. All begin at $s = 0.5$,
# and $J^\star - J$ is printed after the first round and the last. Finite $n$: each round has 2000 labels, new
# ones. Finite steps: 30 more in each round; for comparison, on the same pairs again.

# %%
worse = teach.predict("which gets worse from the first of six rounds of new pairs to the last?",
                      "finite n",
                      among=["finite n", "wrong class", "not Bradley-Terry", "finite steps"])

# %%
rounds = dict(zip(measured["line"].tolist(), measured["rounds"], strict=True))
for name in rounds:
    first, last = (f"{value:.4f}" if value > 1e-5 else "0" for value in rounds[name][[0, -1]])
    print(f"{name:<29}{first} -> {last}")
worst, = (name for name in worse.among if rounds[name][-1] > rounds[name][0])
worse.reveal(worst, because="The policy draws its pairs where circles do not cancel. New pairs "
             "mend what rare pairs broke; they cannot say what no label says.")

# %% [markdown]
# Does that make on-policy pairs the better ones? In this class that misses $\pi^\star$, yes. In a table that
# holds it, the pairs matter only for how many labels and steps are needed, and that depends on what the
# reference knows already. Three references $\propto e^{-tx}$, from one that dislikes the better answers to one
# that likes them:

# %%
better = teach.predict("a reference likes the better answers: pairs of π*, beside its own, tell",
                       "more", among=["more", "less"])

# %%
tells = []
for t in (2.0, 0.5, -2.0):
    of = np.exp(-t * x) / np.exp(-t * x).sum()
    best = optimum.boltzmann(of, reward, beta)
    own, on_policy = (finite_data.regret(of, pairs(mu) * P, beta, 2000).item() for mu in (of, best))
    tells.append(own / on_policy)
    print(f"t = {t:+.1f}: 2000 labels leave {own:.5f} by its pairs, {on_policy:.5f} by those of π*")
assert tells[0] > 1 > tells[2] and best.max() > 0.85
better.reveal("more" if tells[2] > 1 else "less", because=f"π* says one answer {best.max():.0%} of "
              "the time there. Two different draws from it are hardly ever two of the others.")

# %% [markdown]
# So ask which of the five it is, before blaming shift: is there a chain of comparisons to every answer, are
# labels few, can the model say it, are labels those of a reward, was training long enough?
#
# ## Exercises
#
# Answered wrongly on purpose.

# %%
exercise = teach.exercise("shift_two_groups")
exercise.check(np.exp(5) / np.exp([2, 0, 5, 3, 4]).sum())

# %%
exercise = teach.exercise("shift_three_arms")
weights = np.exp([1.0, -1.0, 0.0])
exercise.check(weights @ [1, 2, 0] / weights.sum())

# %% [markdown]
# **Next:** [10 · which variant](10_which_variant.ipynb). **More:** the experiments
# [distribution_shift](../toy_models/experiments/distribution_shift.py),
# [wrong_class](../toy_models/experiments/wrong_class.py),
# [comparison_graph](../toy_models/experiments/comparison_graph.py) and
# [beyond_the_data](../toy_models/experiments/beyond_the_data.py); [what people say](../MYTHS.md).
