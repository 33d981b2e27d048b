# %% [markdown]
# # 02 · Where the loss comes from
#
# **Claim: pay for reward, charge β for each nat of KL from the reference, and the best of all policies is
# known in closed form, but for Z, a sum over every possible answer. Two answers to one prompt are compared
# without Z: what is left is one negative log-sigmoid. Told how people who judge by this reward judge every
# pair, the policy with the least of it is that best policy again.**
#
# Eight steps, each of them executed: with sympy where letters matter, and with NumPy in a world of three
# answers, small enough to take every sum.

# %%
import matplotlib.pyplot as plt
import numpy as np
import sympy as sp

from analytic import optimum, population, temperature
from dpo_numpy import figures, minimal, teach

plt.style.use(figures.STYLE)

# %% [markdown]
# ## 1 · Reward alone
#
# One prompt, *my order is late*, has three possible answers. Each has a **reward** $r$, and a probability
# under the **reference** $\pi^{ref}$, the model before training. A **policy** $\pi$ is any three
# probabilities; let us list those that are multiples of 1/60, and look for the largest mean reward.

# %%
answers = ["refund", "apology", "silence"]
r = np.array([1.0, 0.0, -1.0])
ref = np.array([0.2, 0.5, 0.3])

n = 60
grid = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n
most = grid[(grid @ r).argmax()]
assert most.tolist() == [1, 0, 0]
print(f"of {len(grid)} policies the one with most reward always says {answers[most.argmax()]!r}")

# %% [markdown]
# Mean reward is linear in the probabilities, so the best policy is a corner: one answer, always, however
# unlikely it was. That is too much trust in a reward that was learned from comparing answers of the
# reference.
#
# ## 2 · A price for leaving the reference
#
# So leaving costs, $\beta$ a nat. How far one went is measured by the Kullback-Leibler divergence, in nats:
#
# $$J(\pi) = \sum_y \pi(y)\,r(y) - \beta\,\text{KL}(\pi\,\|\,\pi^{ref}),\qquad
# \text{KL}(\pi\,\|\,\pi^{ref}) = \sum_y \pi(y)\log\frac{\pi(y)}{\pi^{ref}(y)}.$$

# %%
beta = 0.5
refund = teach.predict("the refund's probability, at first 0.2, where J is largest, β = 0.5", 0.5)

# %% [markdown]
# The probabilities must sum to 1. Lagrange: at the maximum all slopes of $J - \lambda (\sum\pi - 1)$ vanish.
# With letters for everything, `p` for the policy and `q` for the reference:

# %%
b, lam = sp.Symbol("beta", positive=True), sp.Symbol("lambda", real=True)
p, q = (sp.symbols(f"{name}1:4", positive=True) for name in "pq")
s = sp.symbols("r1:4", real=True)
J_of_p = sum(p[k] * s[k] - b * p[k] * sp.log(p[k] / q[k]) for k in range(3))

slopes = [sp.diff(J_of_p - lam * (sum(p) - 1), p[k]) for k in range(3)]
roots = [sp.solve(slopes[k], p[k])[0] for k in range(3)]
factors = [sp.simplify(roots[k] / (q[k] * sp.exp(s[k] / b))) for k in range(3)]
assert all(sp.simplify(factor - factors[0]) == 0 for factor in factors)
assert sp.simplify(sp.diff(J_of_p, p[0], 2) + b / p[0]) == 0 == sp.diff(J_of_p, p[0], p[1])
print("slopes vanish where p = q exp(r/β) times one factor, the same for all three answers")
print("second derivatives are -β/p, mixed ones 0: it is a maximum, and there is no other")

# %% [markdown]
# The factor makes the sum 1. Its inverse is the **partition function** $Z$:
#
# $$\pi^\ast(y) = \frac{1}{Z}\,\pi^{ref}(y)\,e^{r(y)/\beta},\qquad Z = \sum_y \pi^{ref}(y)\,e^{r(y)/\beta}.$$

# %%
weight = ref * np.exp(r / beta)
Z = weight.sum()
best = weight / Z
assert np.allclose(best, optimum.boltzmann(ref, r, beta), rtol=1e-12)

J = grid @ r - beta * optimum.kl(grid, ref)
assert abs(grid[J.argmax()] - best).max() < 1 / n
print("best in closed form", best.round(3), "  best of the list", grid[J.argmax()].round(3))
refund.reveal(best[0], because=f"0.2 e² = {weight[0]:.2f}, over Z = {Z:.2f}. The reference is "
              "tilted, not replaced: no answer's probability is 0.")

# %% [markdown]
# ## 3 · No policy is above β log Z
#
# Take the logarithm of $\pi^\ast$, and $r = \beta\log(\pi^\ast/\pi^{ref}) + \beta\log Z$. Put this into $J$,
# one answer at a time, and sum:
#
# $$\pi\,r - \beta\,\pi\log\frac{\pi}{\pi^{ref}} = \beta\,\pi\log Z - \beta\,\pi\log\frac{\pi}{\pi^\ast}
# \qquad\Longrightarrow\qquad J(\pi) = \beta\log Z - \beta\,\text{KL}(\pi\,\|\,\pi^\ast).$$
#
# A KL is 0 if the two are equal and positive otherwise. So $\beta\log Z$ is the most there is, and what any
# other policy lacks is its own KL from $\pi^\ast$, times $\beta$.

# %%
zed = sp.Symbol("Z", positive=True)
star = q[0] * sp.exp(s[0] / b) / zed
left = p[0] * s[0] - b * p[0] * sp.log(p[0] / q[0])
right = b * p[0] * sp.log(zed) - b * p[0] * sp.log(p[0] / star)
assert sp.simplify(sp.expand_log(left - right)) == 0

top = beta * np.log(Z)
assert abs(J - (top - beta * optimum.kl(grid, best))).max() < 1e-12
print(f"holds for all {len(grid)} policies, to 1e-12")
print(f"β log Z = {top:.4f}; J of the list's best {J.max():.4f}, of the reference {ref @ r:.4f}")

# %% [markdown]
# ## 4 · β is the price, and the slope
#
# Every policy has a mean reward and a KL from the reference. As $\beta$ falls, $\pi^\ast$ walks along the
# upper edge of what policies can have.

# %%
bought = teach.predict("at π* of β = 0.25, how much reward does more KL buy, per nat of it?", 1.0)

# %%
path = temperature.moments(ref, r, np.geomspace(0.02, 50, 400))
around = temperature.moments(ref, r, [0.25 - 1e-5, 0.25 + 1e-5])
rate = (np.diff(around.reward) / np.diff(around.kl)).item()
assert abs(rate - 0.25) < 1e-6

figure, axis = plt.subplots(figsize=(7.5, 4))
axis.plot(optimum.kl(grid, ref), grid @ r, ".", color="#c8c8c8", ms=3, zorder=0)
axis.annotate("the policies of the list", (0.8, 0.1))
axis.plot(path.kl, path.reward, color=figures.OPTIMUM)
for x in (1.0, 0.5, 0.25):
    end = temperature.moments(ref, r, x)
    axis.plot(end.kl, end.reward, "o", color=figures.OPTIMUM)
    axis.plot(end.kl + np.array([-0.2, 0.2]), end.reward + x * np.array([-0.2, 0.2]), "k--", lw=1)
    axis.annotate(f"π* of β = {x:g}", (end.kl - 0.06, end.reward + 0.09), ha="right")
axis.plot(0, ref @ r, "s", color=figures.REFERENCE, clip_on=False, zorder=3)
axis.annotate("reference", (0, ref @ r), (-12, -4), textcoords="offset points", ha="right")
axis.set(xlabel="KL from the reference, nats", ylabel="mean reward", xlim=(-0.32, 1.7),
         ylim=(-1.05, 1.2), xticks=[0, 0.5, 1, 1.5], title="Upper edge: π*. The slope is β")

bought.reveal(rate, because="It stops where a nat buys what it costs: β is the frontier's slope.")

# %% [markdown]
# ## 5 · Solve for the reward
#
# Read the other way, the policy tells the reward:
#
# $$r(y) = \beta\log\frac{\pi^\ast(y)}{\pi^{ref}(y)} + \beta\log Z.$$
#
# β times the log-ratio is the reward, up to one constant. But which? $Z$ sums over all answers.

# %%
log_ratio = np.log(best / ref)
assert np.allclose(beta * log_ratio + beta * np.log(Z), r, atol=1e-12)
print("β log-ratio", (beta * log_ratio).round(4), " r less that", (r - beta * log_ratio).round(4))
print(f"answers of 100 tokens out of 50,000: their number has {100 * np.log10(50_000):.0f} digits")

# %% [markdown]
# ## 6 · Bradley-Terry asks for differences only
#
# People do not report rewards. They compare: Bradley and Terry's model says that they prefer $w$ to $l$ with
# probability $\sigma(r_w - r_l)$. Both answers belong to one prompt, and have one $Z$:

# %%
h_w, h_l = sp.symbols("h_w h_l", real=True)  # log-ratios
difference = (b * h_w + b * sp.log(zed)) - (b * h_l + b * sp.log(zed))
assert sp.simplify(difference - b * (h_w - h_l)) == 0
print("r_w - r_l = β (log-ratio of w - log-ratio of l): no Z in it")

# %%
across = teach.predict("answers to two different prompts are compared: is Z gone there as well?",
                       "yes", among=["yes", "no"])

# %%
rewards, refs = np.array([r, [1.5, 1.0, 0.2]]), np.array([ref, [0.1, 0.6, 0.3]])
learned = beta * np.log(optimum.boltzmann(refs, rewards, beta) / refs)
constants = beta * optimum.log_partition(refs, rewards, beta)
off = (rewards[1, 0] - rewards[0, 0]) - (learned[1, 0] - learned[0, 0])
assert abs(off - (constants[1] - constants[0])) < 1e-12 < abs(off)

figure, axis = plt.subplots(figsize=(7, 3.2))
for k, (mark, place) in enumerate([("o", (10, -6)), ("s", (-10, 4))]):
    axis.axline((0, constants[k]), slope=1, color=figures.COLORS[k], lw=1)
    axis.plot(learned[k], rewards[k], mark, color=figures.COLORS[k])
    axis.annotate(f"prompt {k + 1}: β log Z = {constants[k]:.2f}", (learned[k, 1], rewards[k, 1]),
                  place, textcoords="offset points", ha="left" if place[0] > 0 else "right")
axis.set(xlabel="β log π*/π_ref", ylabel="reward", xlim=(-1.6, 1.1),
         title="One line of slope 1 for each prompt")

across.reveal("no", because="Each prompt has a Z of its own: log-ratios miss here "
              f"{abs(off):.2f} of the difference of rewards.")

# %% [markdown]
# ## 7 · Plug in
#
# The labels are *w was preferred to l*. Their negative log-likelihood is $-\log\sigma(r_w - r_l)$. Write the
# difference of rewards in log-ratios, with the policy that is being trained in the place of $\pi^\ast$:
#
# $$\text{loss} = -\log\sigma\Bigl(
# \beta\log\frac{\pi(w)}{\pi^{ref}(w)} - \beta\log\frac{\pi(l)}{\pi^{ref}(l)}\Bigr).$$
#
# No reward model, no sampling, no $Z$. It is logistic regression, with the difference of log-ratios as its one
# feature and $\beta$ as its fixed slope.

# %%
def dpo(pi, chosen, rejected):
    log_ratio = np.log(pi / ref)
    return np.log1p(np.exp(-beta * (log_ratio[..., chosen] - log_ratio[..., rejected])))


pi = np.array([0.5, 0.3, 0.2])
library, _, _ = minimal.dpo_loss(*np.log([pi[0], pi[2], ref[0], ref[2]]), beta)
assert abs(dpo(pi, 0, 2) - library) < 1e-12
print(f"refund chosen over silence: {dpo(pi, 0, 2):.4f}")

# %% [markdown]
# ## 8 · And back
#
# Does the policy with the least loss have the largest $J$, the one we set out for? Take all pairs in both
# orders, each as often as people with these rewards would label it so.

# %%
least = teach.predict("the loss of π* itself, the best of all policies, in nats", 0.0)

# %%
ordered = [(w, other) for w in range(3) for other in range(3) if w != other]
P = {(w, other): 1 / (1 + np.exp(r[other] - r[w])) for w, other in ordered}


def loss(pi):
    return sum(P[pair] * dpo(pi, *pair) for pair in ordered) / 3


inner = grid[(grid > 0).all(axis=1)]
entropy = -sum(P[pair] * np.log(P[pair]) for pair in ordered) / 3
assert abs(loss(best) - entropy) < 1e-12 and (loss(inner) > entropy).all()
assert abs(entropy - population.entropy(population.bradley_terry_wins(r))) < 1e-12
assert abs(inner[loss(inner).argmin()] - best).max() < 2 / n
print(f"labels' entropy {entropy:.4f}; loss of π* {loss(best):.4f}, of reference {loss(ref):.4f}")
least.reveal(loss(best), because="People disagree, so a label cannot be foreseen: their entropy "
             "is what no knowledge removes. π* attains it; each policy of the list is above it.")

# %% [markdown]
# The circle is closed, on conditions that you can now name: the reference gives every answer some probability,
# labels are Bradley-Terry, there are as many as one likes, the comparisons connect all answers, and the policy
# can express $\pi^\ast$. What happens without
# each of them is the subject of later notebooks.
#
# ## Exercises
#
# Answers are wrong on purpose; `.hint()` and `.solve()` help.

# %%
exercise = teach.exercise("derivation_optimum")


def best_policy(ref, r, beta):
    tilted = np.exp(r / beta)
    return tilted / tilted.sum()


exercise.check(best_policy)

# %%
exercise = teach.exercise("derivation_beta_of_policy")
exercise.check(1 / np.log(0.6 / 0.3))

# %% [markdown]
# **Next:** [03 · the gradient](03_gradient.ipynb): what this loss does to the weights. More: the experiments
# [z_cancels](../toy_models/experiments/z_cancels.py) and [frontier](../toy_models/experiments/frontier.py), and
# [exact results](../docs/exact.md).
