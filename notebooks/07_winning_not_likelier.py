# %% [markdown]
# # 07 · Winning is not getting likelier
#
# **Claim: draw pairs of answers from the reference; wherever their rewards differ, the log-probs of the chosen
# ones have *fallen*, on average, at the exact optimum of DPO, for every $\beta$ below a crossover that can be
# computed.** Only the gap is trained. First the optimum, then one pair, then a language model, then remedies
# and their price.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np

from analytic import metrics, minimizers, optimum
from dpo_numpy import figures, minimal, teach
from toy_models.experiments import EXPERIMENTS

plt.style.use(figures.STYLE)
measured = EXPERIMENTS["winning_not_likelier"].run()

# %% [markdown]
# ## At the optimum
#
# A prompt has three answers, of rewards 1, 0 and -1; the reference likes them all the same. A pair is two
# different answers that it gave, and people prefer $i$ to $j$ with probability $\sigma(r_i - r_j)$. With enough
# such labels DPO ends at $\pi^\star \propto \pi_{ref}\,e^{r/\beta}$ (notebook 02).

# %%
reward, ref, beta = np.array([1.0, 0.0, -1.0]), np.full(3, 1 / 3), 0.1

met = np.outer(ref, ref) * (1 - np.eye(3))
wins = 2 * met / met.sum() / (1 + np.exp(reward - reward[:, None]))  # [i, j]: how often i beats j
chosen, rejected = wins.sum(axis=1), wins.sum(axis=0)
assert np.allclose(chosen, metrics.pairs(ref, reward, distinct=True).chosen)

best = ref * np.exp(reward / beta)
best /= best.sum()

# %%
mean = teach.predict("mean over pairs of log π*(chosen)/π_ref(chosen), in nats", 1.0)

# %%
change = np.log(best / ref)
for k in range(3):
    print(f"reward {reward[k]:+.0f}: chosen in {chosen[k]:.0%} of pairs, log π {change[k]:+.2f}")
print(f"mean of π(chosen): {chosen @ ref:.2f} by the reference, {chosen @ best:.2f} by π*")
mean.reveal(float(chosen @ change), because="The middle answer is chosen too, and π* hardly says "
            "it. The best can gain log 3 nats at most, the others can lose any number.")

# %% [markdown]
# Nothing has failed: this is the policy that DPO is meant to find. The mean of $\log\pi(\text{chosen})$ falls
# although that of $\pi(\text{chosen})$ rises: a log counts what nearly vanishes. With
# $J^\star = \beta \log Z$, and $E_c$ the mean over chosen answers,
#
# $$E_c \log\frac{\pi^\star}{\pi_{ref}} = \frac{E_c\,r - J^\star}{\beta}.$$
#
# $J^\star$ falls from the best reward ($\beta \to 0$) to the reference's mean ($\beta \to \infty$), and
# $E_c\,r$, which does not depend on $\beta$, is in between here: they cross once. Pairs of *different* answers
# may have an $E_c\,r$ below the reference's mean, where that is high: then the chosen fall at every $\beta$.

# %%
betas = np.geomspace(0.15, 10, 100)
up, down = (metrics.mean_log_ratio(share, ref, reward, betas) for share in (chosen, rejected))
crossover = metrics.crossover(chosen, ref, reward)
assert (up[betas < crossover] < 0).all() and (up[betas > crossover] > 0).all() and (up > down).all()

figure, axis = plt.subplots(figsize=(7, 3.3))
for path, name, color in ((up, "chosen", figures.CHOSEN), (down, "rejected", figures.REJECTED)):
    axis.plot(betas, path, color=color)
    axis.text(betas[21], path[21] - 0.6, name, color=color)
axis.axhline(0, color=figures.REFERENCE, lw=1)
axis.axvline(crossover, color=figures.OPTIMUM, ls="--", lw=1)
axis.text(1.03 * crossover, -5, f"crossover, β = {crossover:.3f}", color=figures.OPTIMUM)
axis.set(xscale="log", ylim=(-8, 0.7), xlabel="β", ylabel="mean log π*/π_ref, nats")
axis.set_xticks(ticks := [0.2, 0.5, 1, 2, 5, 10], ticks)
sure, good = np.array([0.9, 0.1]), np.array([1.0, 0.0])  # different answers only: no crossover
assert metrics.crossover(metrics.pairs(sure, good, distinct=True).chosen, sure, good) == np.inf

# %% [markdown]
# ## One pair in a table
#
# Where does the fall come from? A step on one pair raises the logit of its chosen answer and lowers that of its
# rejected one as much. Log-probs follow through the softmax: $\partial\log\pi_k/\partial z_j = [k=j] - \pi_j$.

# %%
pi, w, lost = np.array([0.1, 0.2, 0.7]), 0, 1  # the third is in no pair
push = np.array([1.0, -1.0, 0.0])
rates = push - pi @ push
assert np.allclose(rates, [1 - pi[w] + pi[lost], -1 - pi[w] + pi[lost], pi[lost] - pi[w]])

# %%
third = teach.predict("the answer of 0.1 is chosen over that of 0.2. At first the third's log-prob",
                      "falls", among=["rises", "falls", "stays"])

# %%
print("rates of log π, of chosen, rejected, third:", ", ".join(f"{rate:+.1f}" for rate in rates))
third.reveal("rises" if rates[2] > 0 else "falls", because="Bystanders change at π(rejected) - "
             "π(chosen), all alike; the chosen at 1 - π(chosen) + π(rejected), never below 0.")

# %% [markdown]
# So in a table a chosen answer falls only by *other* pairs. Bystanders of a pair keep their ratios. Not so
# when a rejected answer is pushed down alone (unlikelihood training, a negative reward):

# %%
squeezed = teach.predict("π = 0.70, 0.20, 0.08, 0.02: the last alone is pushed down. The 0.20 then",
                         "rises", among=["rises", "falls", "stays"])

# %%
start = np.array([0.70, 0.20, 0.08, 0.02])


def pushed(push, steps=30):
    z = np.log(start)
    for _ in range(steps):
        z = z + 0.1 * (push - np.exp(z) / np.exp(z).sum() * push.sum())
    return np.exp(z) / np.exp(z).sum()


alone, pair = pushed(np.array([0, 0, 0, -1])), pushed(np.array([1, 0, 0, -1]))
print("pushed alone:", alone.round(3), " in a pair with the first:", pair.round(3))
assert np.isclose(pair[1] / pair[2], start[1] / start[2])
assert alone[1] / alone[2] > 1.1 * start[1] / start[2]
squeezed.reveal("falls" if alone[1] < start[1] else "rises", because="The likeliest takes what is "
                "set free and more: at first only what is above Σ π² - π(rejected) = "
                f"{start @ start - start[3]:.2f} rises.")

# %% [markdown]
# ## A pair of strings
#
# A bigram has a softmax for each context. The gradient of $\log\pi$ in its logits, the **score** $s$, is in
# each context what was said there less what was expected. A small step along the gradient of the margin,
# $s_w - s_l$, changes the log-prob of the chosen by $s_w\cdot(s_w - s_l)$.

# %%
def score(answer, p):
    """∂ log π(answer)/∂ logits; p[context, token], token 0 ends, context 0 begins"""
    rows = np.zeros_like(p)
    for context, said in zip([0, *answer], [*answer, 0], strict=True):
        rows[context] += np.eye(len(p))[said] - p[context]
    return rows


strings = [answer for n in range(4) for answer in itertools.product((1, 2, 3), repeat=n)]
once = np.array([len({*answer}) == len(answer) for answer in strings])  # comes back to no context
both = np.logical_and.outer(once, once) & ~np.eye(len(strings), dtype=bool)

# %%
never = teach.predict(f"{both.sum()} pairs that visit no context twice, 20 random bigrams: in how "
                      "many percent does the chosen fall at first?", 10)

# %%
falls = []
for seed in range(20):
    odds = np.exp(np.random.default_rng(seed).normal(size=(4, 4)))
    p = odds / odds.sum(axis=1, keepdims=True)
    scores = np.array([score(answer, p).ravel() for answer in strings])
    inner = scores @ scores.T
    falls.append(np.diag(inner)[:, None] < inner - 1e-9)  # [chosen, rejected]
falls, other = np.array(falls), ~both & ~np.eye(len(strings), dtype=bool)
assert not falls[:, both].any()
print(f"of the other pairs, where a context comes back: {falls[:, other].mean():.1%}")
never.reveal(100 * falls[:, both].mean(), because="Each context adds to the chosen's rate: 0 if "
             "both say the same there, 1 - p(chosen's) + p(rejected's) if they part, |onehot - p|² "
             "if only the chosen comes there.")

# %% [markdown]
# How can coming back turn the sign? Over tokens *a*, *b* and the end, let *a* be chosen over *aaa*. After an
# *a* the chosen says *end*; the rejected says *a, a, end*. There the scores differ by
# $2\,(p - \text{onehot}(a))$: the logit of *a* is pushed down, and the others gain in proportion to $p$. Here
# *b* is 18 times as likely as the end, and gains as many times as much:

# %%
p = np.array([[0.2, 0.6, 0.2], [0.05, 0.05, 0.9], [0.4, 0.3, 0.3]])  # begin, a, b; end, a, b
s_w, s_l = score([1], p), score([1, 1, 1], p)
rate = (s_w * (s_w - s_l)).sum()
assert np.isclose(rate, 2 * (p[1, 0] + p[1, 1] - p[1] @ p[1])) and np.isclose(p[1, 2] / p[1, 0], 18)
print(f"the chosen moves at 2 (p(end|a) + p(a|a) - |p(.|a)|²) = {rate:.2f}")

# %%
bystander = teach.predict("p(b|a) = 0.9, and b is in neither answer. 1000 steps later it is", 0.5)

# %%
W = reference = np.log(p)
two = [(np.array([tokens]), np.array([[0] + [1] * (len(tokens) - 1)]))  # tokens and mask
       for tokens in ([0, 1, 0], [0, 1, 1, 1, 0])]
path = []
for _ in range(1001):
    path.append([minimal.sequence_logps(W[tokens], tokens, mask)[0].item() for tokens, mask in two])
    _, W = minimal.dpo_step(W, reference, *two, beta=0.5, lr=1.0)
up, down = np.transpose(path) - np.array(path[0])[:, None]
assert (np.diff(up) < 0).all() and (np.diff(up - down) > 0).all()

figure, axis = plt.subplots(figsize=(7, 3))
for line, name, color in ((up, "chosen: a", figures.CHOSEN), (up - down, "the gap", "black"),
                          (down, "rejected: aaa", figures.REJECTED)):
    axis.plot(line, color=color)
    axis.text(1010, line[-1], name, color=color, va="center")
axis.axhline(0, color=figures.REFERENCE, lw=1)
axis.set(xlabel="step", ylabel="change of log π, nats", xlim=(0, 1250))
bystander.reveal((np.exp(W[1]) / np.exp(W[1]).sum())[2].item(), within=0.01,
                 because="The gap grows with every step; b takes what both lose.")

# %% [markdown]
# Networks share weights between contexts too: then tokens that both answers have in common can fall with the
# rejected ([negative_gradient](../toy_models/experiments/negative_gradient.py)).
#
# ## Remedies, and their price
#
# Two remedies: add $-\alpha\log\pi(\text{chosen})$ to the loss (DPO + NLL, or RPO), or, inside the sigmoid,
# charge the gap $\lambda$ for each nat that the chosen is below the reference (DPOP). Both lift the chosen.
# But $\pi^\star$ was the best policy there is: what leaves it loses some of
# $J = \text{E}\,r - \beta\,\text{KL}(\pi\,\Vert\,\pi_{ref})$.

# %%
price = teach.predict("three answers, β = 0.1, α = 1: share of DPO's gain in J lost by NLL", 0.05)

# %%
with_nll = minimizers.rpo(ref, wins, beta, alpha=1.0)
of_best, of_ref, of_nll = (optimum.value(pi, ref, reward, beta) for pi in (best, ref, with_nll))
assert chosen @ np.log(with_nll / ref) > 0 > chosen @ change
price.reveal((of_best - of_nll) / (of_best - of_ref), because="NLL pulls towards how often people "
             "chose each answer, and they chose the middle one a third of the time.")

# %%
ceiling = optimum.kl(chosen, ref)
figure, axis = plt.subplots(figsize=(7, 3.2))
for name, label, color, mark, at in (("rpo", "DPO + α NLL", "black", "o-", 3),
                                     ("dpop", "DPOP", "#E69F00", "s-", 2)):
    cost = measured[f"{name}_curve_regret"] / measured["reference_regret"]
    lift = measured[f"{name}_curve_chosen"]
    assert (lift < ceiling + 1e-9).all()
    assert cost[lift < -2].max() < 0.02 and cost[lift > 0].min() > 0.4
    axis.plot(cost, lift, mark, color=color, ms=4)
    axis.text(cost[at] + 0.02, lift[at] - 0.4, label, color=color)
axis.plot(0, chosen @ change, "*", color=figures.OPTIMUM, ms=12)
axis.text(0.02, chosen @ change, "DPO: π*", color=figures.OPTIMUM, va="center")
axis.axhline(ceiling, color=figures.CHOSEN, ls=":", lw=1.2)
axis.text(0, ceiling + 0.1, "no policy is above", color=figures.CHOSEN)
axis.set(xlabel="share of DPO's gain in J that is lost", ylabel="chosen: mean log π/π_ref",
         ylim=(-5.2, 0.9))
i, j = np.mgrid[1:500, 1:500]
every = np.stack([i, j, 500 - i - j])[:, i + j < 500].T / 500  # policies, on a grid
kept = every[np.log(every / ref) @ chosen >= 0]
least = (of_best - optimum.value(kept, ref, reward, beta).max()) / (of_best - of_ref)
print(f"of all policies whose chosen do not fall, the best loses {least:.2f}")
print(f"DPOP does not leave the reference from λ = {measured['threshold']:.2f} on, whatever β")
assert measured["lam"] > measured["threshold"]
assert abs(measured["dpop_regret"] - measured["reference_regret"]) < 1e-6

# %% [markdown]
# The first nats are nearly free; to lift the chosen above 0 these two lose two fifths of the gain or more,
# which is more than that must cost. The ceiling is
# $\text{KL}(c\,\Vert\,\pi_{ref})$, $c$ the distribution of chosen answers: no policy is nearer to $c$ than $c$.
#
# So a falling chosen log-prob by itself says nothing ill of training, and nothing good. Ask where the mass
# went: to better answers (the table), or to ones that nobody compared (the bigram).
#
# ## Exercises
#
# Answered wrongly on purpose.

# %%
exercise = teach.exercise("winning_bystanders")
exercise.check(lambda pi, w, lost: np.eye(len(pi))[w] - np.eye(len(pi))[lost])

# %%
exercise = teach.exercise("winning_chosen_change")
exercise.check(lambda ref, reward, beta: metrics.pairs(ref, reward).chosen @ (reward / beta))

# %% [markdown]
# **Next:** [08 · length](08_length.ipynb). **More:** the experiments
# [winning_not_likelier](../toy_models/experiments/winning_not_likelier.py) and
# [negative_gradient](../toy_models/experiments/negative_gradient.py), and [exact results](../docs/exact.md).
