# %% [markdown]
# # 03 · The gradient, taken apart
#
# **Claim: each pair pushes the weights along ∇log π(chosen) - ∇log π(rejected), by β times σ(-margin); and
# the loss is least where σ(margin) is the share of people who agree with the label, for every pair at once,
# if the policy can have it so.** First the three factors, then where training comes to rest; at last, why a
# loss that stays at 0.693 says little.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

import dpo_numpy as dn
from analytic import population
from dpo_numpy import figures, teach
from toy_models import NGram

plt.style.use(figures.STYLE)


def sigma(m):
    return 1 / (1 + np.exp(-m))


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

# %% [markdown]
# ## 1 · Three factors
#
# The margin is $m = \beta (\log\pi_w - \log\pi_l)$, less the same of the reference, and the loss
# $-\log\sigma(m)$. The chain rule, for any weights $\theta$:
#
# $$\nabla_\theta\,\text{loss} = -\,\beta\;\sigma(-m)\;
# \bigl(\nabla_\theta\log\pi_w - \nabla_\theta\log\pi_l\bigr).$$
#
# The first two are numbers, known from 01. The third, the **direction**, is the model's. The smallest model is
# a table, one logit for each whole answer. There
#
# $$\nabla\log\pi_y = \text{onehot}(y) - \pi,\qquad\text{so the direction is}\quad
# \text{onehot}(w) - \text{onehot}(l):$$
#
# the softmax parts cancel, and one logit goes up by as much as one goes down.

# %%
pi = np.array([0.1, 0.6, 0.2, 0.1])  # of four answers; the first is chosen over the second
moved = teach.predict("π(chosen) = 0.1, π(rejected) = 0.6. Whose log-prob moves farther?",
                      "both alike", among=["chosen", "rejected", "both alike"])

# %%
direction = np.array([1, -1, 0, 0])
change = direction - pi @ direction  # to first order, for a step of 1
small = log_softmax(np.log(pi) + 1e-3 * direction)
assert np.allclose(small, np.log(pi) + 1e-3 * change, atol=1e-6)

figure, panels = plt.subplots(1, 3, figsize=(8, 2.6), sharey=True)
moves = {"logits": direction, "log π": change, "π": pi * change}
for axis, (title, move) in zip(panels, moves.items(), strict=True):
    axis.barh(range(4), move, color=[figures.CHOSEN, figures.REJECTED, "black", "black"])
    axis.axvline(0, color="black", lw=0.8)
    axis.set(title=f"change of {title}")
panels[1].set_xlabel("to first order, per unit of step")
panels[0].set_yticks(range(4), ["chosen, 0.1", "rejected, 0.6", "another, 0.2", "another, 0.1"])
panels[0].invert_yaxis()

assert abs(change[0]) > abs(change[1])
moved.reveal("chosen", because=f"By {change[0]:.1f} against {change[1]:.1f}. The softmax's "
             f"log-sum falls by π(rejected) - π(chosen) = {-pi @ direction:.1f}, which lifts "
             "all log-probs: the less likely moves farther.")

# %% [markdown]
# So *equal and opposite* is true of slopes in the two log-probs, not of what a step does to log-probs, let
# alone to probabilities.
#
# ## 2 · Token by token
#
# A language model has a softmax for each token. In a bigram, `W[current, next]`, each token of an answer adds
# its onehot - softmax to the row of the token before it.

# %%
def logp(W, tokens):
    return log_softmax(W)[tokens[:-1], tokens[1:]].sum()


def score(W, tokens):
    """The gradient of logp"""
    total = np.zeros_like(W)
    for now, after in pairwise(tokens):
        total[now] += np.eye(len(W))[after] - np.exp(log_softmax(W[now]))
    return total


chosen, rejected = [0, 1, 1, 2, 0], [0, 1, 2, 2, 0]  # 0 begins and ends
third = teach.predict("1 1 2 end over 1 2 2 end. Token 3 is in neither: where do its logits go?",
                      "nowhere", among=["nowhere", "down", "up here, down there"])

# %%
W = np.zeros((4, 4))
direction = score(W, chosen) - score(W, rejected)
print("next       0      1      2      3")
for token, row in enumerate(direction):
    print(f"after {token}", *(f"{x:+6.2f}" for x in row))

assert not direction[0].any() and direction[1, 3] < 0 < direction[2, 3]
pulled = np.eye(4)[1] - 1 / 4  # onehot of token 1, less the softmax
assert np.allclose(direction[1], pulled) and np.allclose(direction[2], 1 / 4 - np.eye(4)[2])
third.reveal("up here, down there", because="The chosen visits row 1 twice, the rejected once: a "
             "softmax part is left over. In row 2 it is the other way round.")

# %% [markdown]
# Row 0, where both begin with token 1, is 0: a shared beginning cancels, in any language model. A bigram sees
# one token back, and so what *1 2* and *2 end* add cancels too. Left are *1 1* of the chosen and *2 2* of the
# rejected, each with its softmax.
#
# ## 3 · A step on one screen
#
# All that training needs:

# %%
def dpo(W, ref, pairs, beta):
    loss, gradient = 0.0, np.zeros_like(W)
    for w, other in pairs:
        margin = beta * ((logp(W, w) - logp(ref, w)) - (logp(W, other) - logp(ref, other)))
        loss += np.log1p(np.exp(-margin)) / len(pairs)
        gradient -= beta * sigma(-margin) * (score(W, w) - score(W, other)) / len(pairs)
    return loss, gradient


W, ref = np.random.default_rng(0).normal(size=(2, 4, 4))
batch, beta = [(chosen, rejected), ([0, 3, 0], [0, 2, 1, 0])], 0.5
loss, gradient = dpo(W, ref, batch, beta)
print(f"loss {loss:.4f}, after a step of size 1 {dpo(W - gradient, ref, batch, beta)[0]:.4f}")

# %% [markdown]
# Is it right? A hand-written gradient is checked along a random direction, by a complex step: it subtracts
# nothing and so loses no digits.

# %%
def f(params):
    return dpo(params["W"], ref, batch, beta)[0]


for factor in (1, 1.001):
    claim, rng = {"W": factor * gradient}, np.random.default_rng(1)
    check = dn.check_gradient(f, {"W": W}, claim, rng, dn.complex_step)
    assert (check.units < 1e3) == (factor == 1)  # in units of rounding
    print(f"measured {check.measured:.6f}, ours x {factor}: {check.claimed:.6f}")

# %%
told = dn.Preferences.of([[0], [0]], [[1, 1, 2, 0], [3, 0]], [[1, 2, 2, 0], [2, 1, 0]])
told = told.with_reference(NGram(4), {"W": ref})
value, slope = dn.value_and_grad(NGram(4), {"W": W}, told, dn.LOSSES["dpo"](beta=beta))
assert abs(value - loss) < 1e-12 and np.allclose(slope["W"], gradient, atol=1e-12)
print("the library has the same loss and gradient, to 1e-12")

# %% [markdown]
# ## 4 · Who still pulls
#
# Back to the table. Five people compare answers 0 and 1, and four prefer 0. One more compares 2 and 3, and
# prefers 2. In log-ratios $u = \log\pi - \log\pi^{ref}$, with `wins[i, j]` the share of labels that prefer i
# to j:

# %%
def pulls(u, wins, beta):
    flow = beta * wins * sigma(-beta * (u[:, None] - u))  # each label pulls by its weight
    return flow.sum(axis=0) - flow.sum(axis=1)  # the gradient: down where i lost, up where it won


wins = np.zeros((4, 4))
wins[0, 1], wins[1, 0], wins[2, 3] = 4 / 6, 1 / 6, 1 / 6
agree = teach.predict("σ(margin) of 0 over 1, which four of five prefer, after long training", 1.0)

# %%
u, path = np.zeros(4), []
for _ in range(1000):
    path.append(sigma(-beta * np.array([u[0] - u[1], u[1] - u[0], u[2] - u[3]])))
    u = u - pulls(u, wins, beta)

figure, axis = plt.subplots(figsize=(7.5, 3.2))
labels = {"each of the four": "-", "the fifth": "--", "nobody disagrees": ":"}
for k, (name, dash) in enumerate(labels.items()):
    axis.plot(range(1, 1001), np.array(path)[:, k], dash, color=figures.COLORS[k])
    axis.annotate(name, (1000, path[-1][k]), (6, -4), textcoords="offset points")
axis.set(xscale="log", xlim=(1, 1000), ylim=(0, 1), xlabel="step",
         title="a label's weight, σ(-margin)")

assert np.allclose(path[-1][:2], [0.2, 0.8], atol=1e-6) and path[-1][2] > 0
agree.reveal(sigma(beta * (u[0] - u[1])), because="Four pull by 0.2 each, the fifth by 0.8: a draw."
             " Only where nobody disagrees it goes on for ever.")

# %% [markdown]
# ## 5 · What the sigmoid balances
#
# Let pair $ij$ be met with weight $c(ij)$, and $P(ij)$ be the share that prefers $i$. The pulls on the logit
# of $i$ sum up to
#
# $$\frac{\partial\,\text{loss}}{\partial u_i} = \beta\sum_j c(ij)\,\bigl[\sigma(m_{ij}) - P(ij)\bigr].$$
#
# If a policy can make every bracket 0, the loss is least there. A table can, whenever a reward explains the
# labels: that policy is $\pi^\ast$. Two cases where none can: labels that no reward explains, and a policy
# too small, whose one weight moves the first three of six answers together.

# %%
cycle = teach.predict("of ten people seven prefer A to B, seven B to C, seven C to A. A table, at "
                      "rest: σ(margin) of A over B", 0.7)

# %%
def rest(wins, span):
    u = np.zeros(len(wins))
    for _ in range(2000):
        u = u - 20 * span @ pulls(u, wins, beta)
    return sigma(beta * (u[:, None] - u))


r = np.array([1.5, 0.9, 0.4, 0.0, -0.6, -1.4])
wins = population.bradley_terry_wins(r)
P = sigma(r[:, None] - r)
for slope in (population.gradient(r, wins, beta),  # here u = r: the formula above holds at any u
              beta * ((wins + wins.T) * (sigma(beta * (r[:, None] - r)) - P)).sum(axis=1)):
    assert np.allclose(slope, pulls(r, wins, beta), atol=1e-12)

around = np.array([[0.5, 0.7, 0.3], [0.3, 0.5, 0.7], [0.7, 0.3, 0.5]])
together = np.array([1, 1, 1, 0, 0, 0]) / np.sqrt(3)
table, small = rest(wins, np.eye(6)), rest(wins, np.outer(together, together))
circle = rest((around - np.eye(3) / 2) / 3, np.eye(3))
assert abs(table - P).max() < 1e-10 and abs(small - P).max() > 0.1 < abs(circle - around).max()

figure, axis = plt.subplots(figsize=(5.6, 4.2))
axis.plot([0, 1], [0, 1], color="black", lw=0.8, zorder=0)
for share, found, mark, color, name, place in (
        (P, table, "o", figures.OPTIMUM, "circles: labels of a reward", (0.45, 0.4)),
        (P, small, "^", figures.COLORS[2], "triangles: these, one weight", (0.45, 0.17)),
        (around, circle, "s", figures.COLORS[1], "squares: a cycle", (0.2, 0.55))):
    axis.plot(share[share != 0.5], found[share != 0.5], mark, color=color)
    axis.annotate(name, place)
axis.set(xlabel="share of people who prefer i to j", ylabel="σ(margin) at rest",
         xlim=(0, 1), ylim=(0, 1))

cycle.reveal(circle[0, 1], because="Each answer is pulled up as much as down, from the start. "
             "In a table at rest sums balance; pair by pair, if a reward explains the labels.")

# %% [markdown]
# ## 6 · Stuck at 0.693
#
# $-\log\sigma(0) = \log 2 \approx 0.693$: the margin is 0, as for every pair at the first step. The gradient
# is not: its slope in the two log-probs is $\beta/2$. One run that is well, and five whose loss stays there:

# %%
def run(wins, beta=0.5, frozen=True, dtype=float, lr=0.02):
    start = (20 + np.log(pi)).astype(dtype)  # softmax does not see the 20, float16 does
    W = ref = start
    for _ in range(50):
        ref = start if frozen else W
        u = (W - ref).astype(float)
        loss = (wins * np.log1p(np.exp(-beta * (u[:, None] - u)))).sum()
        slope = pulls(u, wins, beta)
        W = (W - lr * slope).astype(dtype)
    return loss, abs(slope).max(), abs(W - start).max()


clean, same, split = np.zeros((3, 4, 4))
clean[0, 1] = same[0, 0] = 1
split[0, 1] = split[1, 0] = 1 / 2
runs = {"all is well": run(clean),
        "reference not frozen": run(clean, frozen=False),
        "chosen = rejected": run(same),
        "labels are coin flips": run(split),
        "step lost in float16": run(clean, dtype=np.float16),
        "β = 0.001": run(clean, beta=1e-3)}
print(f"{'50 steps':<24}{'loss':>8}{'gradient':>10}{'moved':>9}")
for name, (loss, slope, far) in runs.items():
    print(f"{name:<24}{loss:8.3f}{slope:10.4f}{far:9.4f}")
    assert (round(loss, 3) == 0.693) == (name != "all is well")
assert runs["reference not frozen"][1] == 0.5 / 2
fell = [np.log(2) - run(clean, beta=x)[0] for x in (1e-3, 2e-3)]
assert abs(fell[1] / fell[0] - 2**2) < 1e-3

# %% [markdown]
# What to look at, in this order:
#
# - *No gradient*: the data. Both answers are one text (cut before they part, or one column read twice), or
#   labels were shuffled.
# - *A gradient, and no move*: the optimizer, frozen weights, the precision.
# - *It moves, and the loss does not*: the reference moves along (the same object, an adapter left on).
# - *All of it, but little*: $\beta$. At first, in plain descent, the loss falls as its square.
#
# ## Exercises

# %%
exercise = teach.exercise("gradient_whole_table")
exercise.check(lambda W, ref, pairs, beta: sum(dpo(W, ref, [pair], beta)[1] for pair in pairs))

# %%
exercise = teach.exercise("gradient_at_rest")
exercise.check(np.log(0.7 / 0.3))

# %% [markdown]
# **Next:** [04 · four models, or two](04_four_models.ipynb). More: what a step does to likelihoods,
# [predict_three_pairs](../toy_models/experiments/predict_three_pairs.py) and
# [negative_gradient](../toy_models/experiments/negative_gradient.py).
