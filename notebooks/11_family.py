# %% [markdown]
# # 11 · A family of losses and its conventions
#
# **Claim: a smooth convex loss $f$ of DPO's margin, not a constant, leads endless Bradley-Terry pairs to
# $\pi^\ast$, whatever the rewards, if and only if its slope satisfies $f'(-m) = e^m f'(m)$: the logistic loss
# does, IPO's square does not.** First the family: one margin, many functions of it, and where each ends. Then
# its conventions: one name that is several losses, and two numbers on a dashboard, KTO's KL and GRPO's loss,
# that are 0 for reasons of their own.

# %%
import matplotlib.pyplot as plt
import numpy as np

import dpo_numpy as dn
from analytic import minimizers, population
from dpo_numpy import figures, teach
from dpo_numpy.conformance import conventions

plt.style.use(figures.STYLE)
BLACK, ORANGE, SKY = figures.COLORS[:3]


def sigmoid(m):
    return 1 / (1 + np.exp(-m))

# %% [markdown]
# ## One margin, many kernels
#
# With $h$ the difference of log-ratios, $m = \beta h$ is the margin. A **kernel** $f$ makes a loss of it.
# DPO's is $-\log\sigma(m)$. IPO's is $(h - \frac{1}{2\tau})^2$, which with $\beta = 2\tau$ is $(1-m)^2$ times
# a constant. The hinge is $\max(0, 1-m)$. A fourth, to see what matters: $2e^{-m/2}$.

# %%
kernels = {"logistic (DPO)": lambda m: np.log1p(np.exp(-m)), "square (IPO)": lambda m: (1 - m)**2,
           "hinge": lambda m: np.maximum(0, 1 - m), "exponential": lambda m: 2 * np.exp(-m / 2)}
slopes = {"logistic (DPO)": lambda m: -sigmoid(-m), "square (IPO)": lambda m: -2 * (1 - m),
          "hinge": lambda m: np.where(m < 1, -1.0, 0.0), "exponential": lambda m: -np.exp(-m / 2)}

m = np.array([-2.0, 0.3, 4.0])
library = {"logistic (DPO)": dn.LOSSES["dpo"](1.0), "square (IPO)": dn.LOSSES["ipo"](tau=0.5),
           "hinge": dn.LOSSES["hinge"](1.0)}
for name, loss in library.items():
    value, grad = loss(np.stack([m, 0 * m], axis=-1), np.zeros((3, 2)))
    assert np.allclose(value, kernels[name](m)) and np.allclose(grad[:, 0], slopes[name](m))

# %%
push = teach.predict("The order is right by far, m = 3. What does IPO do to the margin?",
                    "raise it", among=["raise it", "leave it", "lower it"])

# %%
m = np.linspace(-3, 4, 281)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
looks = [(BLACK, "-", (-2.9, 0.4)), (ORANGE, "--", (2.0, -1.5)), (SKY, "-.", (-2.9, 1.15)),
         (SKY, ":", (-2.7, 4.0))]
for (name, kernel), (color, line, at) in zip(kernels.items(), looks, strict=True):
    left.plot(m, kernel(m), line, color=color)
    right.plot(m, -slopes[name](m), line, color=color)
    right.annotate(name.split()[0], at, fontsize=9)
left.set(title="loss f(m)", xlabel="margin m", ylim=(-0.2, 6))
right.set(title="pull on the margin, -f'(m)", xlabel="margin m", ylim=(-3, 4.5))
right.axhline(0, color=BLACK, lw=0.6)
push.reveal("lower it", because="A square has a target and pulls back beyond it. The hinge lets "
            "go, the logistic loss fades; the exponential one fades later.")
assert slopes["square (IPO)"](3.0) > 0

# %% [markdown]
# ## Where each of them ends
#
# Two answers whose rewards differ by $\Delta$, endless labels: the first wins with probability
# $p = \sigma(\Delta)$, so the mean loss is $p\,f(m) + (1-p)\,f(-m)$. Its slope is 0 where
#
# $$\frac{f'(-m)}{f'(m)} = \frac{p}{1-p} = e^{\Delta}.$$
#
# The policy is $\pi^\ast$ if $m = \Delta$. So a smooth convex kernel that falls ends there, at every $\Delta$,
# if and only if $f'(-m) = e^m f'(m)$. With more answers the same equation holds pair by pair.

# %%
half = teach.predict("Is the exponential kernel's optimum π*, at every Δ?", "no",
                     among=["yes", "no"])

# %%
print("f'(-m)/f'(m) at m = 1/2, where e^m is", round(np.exp(0.5), 4))
print(*(f"{name} {slope(-0.5) / slope(0.5):.4f}" for name, slope in slopes.items()), sep=", ")
reach = np.linspace(-4, 4, 9)
always = np.allclose(slopes["exponential"](-reach), np.exp(reach) * slopes["exponential"](reach))
half.reveal("yes" if always else "no", because="e^(m/2)/e^(-m/2) = e^m. What matters is not the "
            "logarithm, but how much harder a wrong pair pulls. e^(-m) would end at Δ/2.")

# %%
deltas, grid = np.linspace(0.05, 3, 60), np.linspace(-1, 4, 5001)
figure, axis = plt.subplots(figsize=(6.4, 3.4))
p = sigmoid(deltas)[:, None]
for (name, kernel), (color, line, _) in zip(kernels.items(), looks, strict=True):
    ends = grid[(p * kernel(grid) + (1 - p) * kernel(-grid)).argmin(axis=1)]
    known = {"square (IPO)": 2 * p[:, 0] - 1, "hinge": np.ones(60)}.get(name, deltas)
    assert np.allclose(ends, known, atol=2e-3)
    axis.plot(deltas, ends, line, color=color, lw=5 if name == "exponential" else None)
axis.annotate("π*: logistic, exponential", (1.2, 2.3))
axis.annotate("hinge", (2.7, 1.08))
axis.annotate("square", (2.7, 0.7))
assert np.allclose(minimizers.gpo_margin(p[:, 0], "exponential"), deltas / 2)
axis.set(xlabel="true margin Δ", ylabel="margin at the optimum");

# %% [markdown]
# The hinge ends at the order alone; the square at $2p-1$, which saturates.
#
# ## What an optimum depends on
#
# The margin itself may change: **SimPO** has no reference and divides by length, **R-DPO** adds the difference
# of lengths, **KTO** judges single answers, **SFT** copies what was chosen. Take three answers, endless
# Bradley-Terry labels, closed forms for where each loss ends, and change one thing at a time: which pairs are
# met, the reference, the lengths. Is $\log\pi - \log\pi_{ref}$, up to a constant, moved?

# %%
reward, beta = np.array([1.0, 0.0, 0.4]), 0.5


def log_ratios(name, mu, ref, length, beta=beta):
    wins = population.bradley_terry_wins(reward, population.drawn_pairs(mu))
    share = wins.sum(axis=1) / (wins + wins.T).sum(axis=1)
    shown = (wins + wins.T).sum(axis=1) / 2
    pi = {"DPO": lambda: population.policy(population.newton(wins, beta), ref),
          "IPO": lambda: minimizers.ipo_pairs(ref, wins, beta),
          "R-DPO": lambda: minimizers.r_dpo(ref, reward, length, beta, alpha=0.1),
          "SimPO": lambda: minimizers.simpo(reward, length, beta),
          "SFT": lambda: minimizers.sft(shown, share),
          "KTO": lambda: minimizers.kto(ref, shown, share, beta)}[name]()
    with np.errstate(divide="ignore"):
        u = np.log(pi / ref)
    return u - u[0]


mu, ref, length = np.array([0.2, 0.5, 0.3]), np.array([0.2, 0.5, 0.3]), np.array([2, 1, 4])
other = np.array([0.5, 0.25, 0.25])
print("        π*?   moved by: pairs   reference   length")
for name in ("DPO", "IPO", "R-DPO", "SimPO", "SFT", "KTO"):
    u = log_ratios(name, mu, ref, length)
    moved = [not np.allclose(u, log_ratios(name, *changed)) for changed in
             [(other, ref, length), (mu, other, length), (mu, ref, length[::-1])]]
    says = ["yes" if x else "-" for x in [np.allclose(u, (reward - reward[0]) / beta), *moved]]
    print(f"{name:<7} {says[0]:<5} {says[1]:>15} {says[2]:>11} {says[3]:>8}")
assert all(log_ratios("KTO", mu, ref, length, b)[1] == -np.inf for b in (0.1, 0.5, 1.0))
print(f"KTO leaves answer 2 a log-ratio of {log_ratios('KTO', mu, ref, length)[1]}")

# %% [markdown]
# Of these only DPO reads the reward alone. KTO, its two weights equal, drops an answer that loses more often than
# it wins: to probability 0, at every $\beta$. [Optima](../docs/optima.md) does this for every
# loss of the registry.
#
# ## One name, several losses
#
# A log-prob of an answer is a *sum* over its tokens. Some libraries take the *mean*. The package keeps a list of
# such conventions: what a library's option computes on the same two pairs, and which loss of ours that is.

# %%
given, tau = conventions.INPUTS, 0.1
ratio = given["logp"] - given["ref_logp"]
per_token = ratio / given["length"]
sums = ((ratio[:, 0] - ratio[:, 1] - 1 / (2 * tau))**2).mean()
means = ((per_token[:, 0] - per_token[:, 1] - 1 / (2 * tau))**2).mean()
name = teach.predict("IPO, τ = 0.1, the same two pairs, in the original DPO code and in TRL's "
                     "DPOTrainer: is the loss the same?", "yes", among=["yes", "no"])

# %%
wanted = {"ipo", "loss_type=ipo", "loss_type=sigmoid label_smoothing", "loss_type=robust",
          "CPOTrainer loss_type=simpo", "gamma"}
for one in conventions.load():
    if one.option in wanted and one.library in ("original DPO code", "TRL", "rlhf-book"):
        ours = str(conventions.loss_of(one)).replace(", eps=0)", ")")
        print(f"{f'{one.library} {one.versions}'.strip():<17} {one.option:<33} "
              f"{conventions.value(one):7.4f} {ours}")
        assert one.topic != "ipo" or np.isclose(conventions.value(one), (sums, means)).any()
name.reveal("no", because="The paper's π is that of the whole answer: sums. With means, the target "
            "1/(2τ) is of every token: that of the whole answer is |y| times as large.")

# %% [markdown]
# Two more names in that list: `label_smoothing` of one library was cDPO and is ignored now, but for rDPO
# (`robust`); `gamma` is the margin $\gamma$ here, the ratio $\gamma/\beta$ there. All such differences, with
# sources, are in [CONVENTIONS.md](../CONVENTIONS.md). The losses of the registry add and scale, so that a
# mixture is what it says:

# %%
mixed = dn.LOSSES["dpo"](0.1) + 0.2 * dn.LOSSES["sft_mean"]()
same = dn.LOSSES["rpo"](0.1, alpha=0.2)
both = [loss(given["logp"], given["ref_logp"], given["length"])[0] for loss in (mixed, same)]
print(f"{mixed} is {same}: {both[0].round(4)}")
assert np.allclose(*both)

# %% [markdown]
# ## Why KTO's KL is 0
#
# KTO compares an answer's log-ratio with $z_0$, the mean of $\log\pi/\pi_{ref}$ over answers set after
# prompts that are not theirs, cut at 0. It is meant as an estimate of $\text{KL}(\pi\,\Vert\,\pi_{ref})$. But
# those answers are not drawn from $\pi$. Drawn from some $\mu$, the mean is
# $\text{KL}(\mu\,\Vert\,\pi_{ref}) - \text{KL}(\mu\,\Vert\,\pi)$: below 0 where the policy is farther from $\mu$
# than the reference is. With $\mu = \pi_{ref}$ it is never above 0:

# %%
pi = np.array([0.6, 0.1, 0.3])
print(f"KL(π || π_ref) {pi @ np.log(pi / ref):.4f}, the mean over the reference's answers "
      f"{ref @ np.log(pi / ref):.4f}, so z0 = {max(0.0, ref @ np.log(pi / ref))}")

# %% [markdown]
# ## GRPO: a loss of 0 that trains
#
# GRPO's advantages $A$ are rewards less their group's mean, divided by their standard deviation. The loss is
# $-A\rho$ in the mean over answers, $\rho$ being $\pi/\pi_{old}$, 1 before the first step.

# %%
zero = teach.predict("Four answers, rewards 1, 0, 0, 0, no KL. The loss at the first step?", -1.0)

# %%
A = dn.group_advantage(np.array([1.0, 0.0, 0.0, 0.0]))
logp = np.full((1, 4, 1), -1.0)
value, grad = dn.SURROGATES["grpo"](beta=0.0)(logp, old_token_logp=logp, mask=np.ones_like(logp),
                                              advantage=A[None])
zero.reveal(round(float(value[0]), 6) + 0.0, within=1e-6, because="The advantages sum to 0. That "
            "says nothing of what is learned: what trains is the gradient, -A/4 an answer.")
print("gradient", grad.ravel().round(4))
assert np.allclose(grad.ravel(), -A / 4)

# %% [markdown]
# If each batch is used for one step, $\rho$ is 1 at every step, and the logged loss is the KL penalty alone
# (where each answer counts the same, whatever its length). Three estimators are in use, of
# $d = \log\pi/\pi_{ref}$ of a sampled answer: k1 is $d$, k2 is $d^2/2$, k3 is $e^{-d} - 1 + d$. As a *value*, k1
# and k3 are the KL in expectation. As a term of a *loss* what counts is the expectation of the gradient, and no
# gradient flows through the sampling.

# %%
first = teach.predict("k1, whose mean is the KL, as a loss term: its expected gradient is",
                      "that of KL(π || π_ref)",
                      among=["that of KL(π || π_ref)", "that of KL(π_ref || π)", "0"])

# %%
d, score = np.log(pi / ref), np.eye(3) - pi  # score[y] = ∂log π(y)/∂logits
kinds = {"k1": (d, np.ones(3)), "k2": (d**2 / 2, d), "k3": (np.exp(-d) - 1 + d, 1 - np.exp(-d))}
forward, backward = pi * (d - pi @ d), pi - ref  # gradients of KL(π || π_ref), KL(π_ref || π)
for name, (value, slope) in kinds.items():
    gradient = (pi * slope) @ score
    print(f"{name}: mean value {pi @ value:.4f}, mean gradient {(gradient + 0.0).round(4) + 0.0}")
    assert np.allclose(gradient, {"k1": 0 * pi, "k2": forward, "k3": backward}[name])
first.reveal("0", because="The scores ∂log π have mean 0. k2 has the gradient of KL(π || π_ref), "
             "k3 that of KL(π_ref || π), whose optimum is not π*. k1 belongs in the reward.")

# %% [markdown]
# ## Exercises
#
# The answers below are wrong on purpose.

# %%
exercise = teach.exercise("ipo_tau_of_sums")
exercise.check(lambda tau, tokens: tau * tokens)

# %%
exercise = teach.exercise("k3_value_and_slope")
exercise.check(lambda d: (np.exp(d) - 1 - d, np.exp(d) - 1))

# %% [markdown]
# **Next:** [12 · verify your own](12_verify_yours.ipynb): a kit that tells which of all these a function
# computes, and where it breaks.
