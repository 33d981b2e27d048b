# %% [markdown]
# # 01 · DPO in one page
#
# **Claim: the DPO loss of a pair is one negative log-sigmoid of four log-probs, and its slopes in the chosen
# and in the rejected log-prob are equal and opposite; yet the chosen answer can become less likely.** This
# notebook goes from one preference pair to a training step, and on to 300 of them.
#
# Every number below was computed while the notebook ran. Before each reveal, `teach.predict` asks for a
# prediction: put yours in place of the one that is stored, run the cell, then read on. The stored ones are
# somebody's honest first guesses, not all of them right.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

from dpo_numpy import figures, minimal, teach

plt.style.use(figures.STYLE)

# %% [markdown]
# ## A pair
#
# A customer writes: *my order is late*. People compared two answers and preferred one, the **chosen**; the
# other is the **rejected**. A language model is asked how likely it finds each of them: the sum of the
# log-probs of the answer's tokens, in nats (logarithms are natural). Two models are asked: the **policy**,
# which is being trained, and the **reference**, the same model before training, which never changes.

# %%
policy_chosen, policy_rejected = -2.1, -4.5
reference_chosen, reference_rejected = -3.0, -3.2

ratio_chosen = policy_chosen - reference_chosen
ratio_rejected = policy_rejected - reference_rejected
print(f"log-ratio of the chosen   {ratio_chosen:+.1f}   the policy likes it more than the reference does")
print(f"log-ratio of the rejected {ratio_rejected:+.1f}   and this one less")

# %% [markdown]
# ## The loss
#
# A log-ratio, times a constant $\beta$, is the **implicit reward** that the policy gives an answer. The
# **margin** is the difference of the two rewards, and the loss is what logistic regression would charge for it.
# With $w$ for the chosen, the winner, and $l$ for the rejected, the loser:
#
# $$\text{margin} = \beta\,\bigl[(\log\pi_w - \log\pi^{ref}_w) - (\log\pi_l - \log\pi^{ref}_l)\bigr],
# \qquad \text{loss} = -\log\sigma(\text{margin}),\qquad \sigma(m) = \frac{1}{1 + e^{-m}}.$$
#
# Before the first step the policy *is* the reference.

# %%
start = teach.predict("the loss before the first step, in nats", 0.5)

# %%
beta = 0.1
loss, _, _ = minimal.dpo_loss(-3.0, -3.2, reference_chosen, reference_rejected, beta)
start.reveal(float(loss), because="Both log-ratios are 0, so is the margin, and -log σ(0) = log 2, "
             "whatever the pair, the model and β. The gradient there is not 0.")

# %%
margin = beta * (ratio_chosen - ratio_rejected)
loss, up, down = minimal.dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
print(f"margin {beta} x ({ratio_chosen:+.1f} - ({ratio_rejected:+.1f})) = {margin:.2f}")
print(f"loss   -log σ({margin:.2f}) = {loss:.6f}")

# %% [markdown]
# ## Both gradients
#
# The slope of $-\log\sigma(m)$ is $-\sigma(-m)$, and the margin depends on the chosen log-prob with slope
# $\beta$ and on the rejected one with slope $-\beta$:
#
# $$\frac{\partial\,\text{loss}}{\partial\log\pi_w} = -\beta\,\sigma(-\text{margin}),\qquad
# \frac{\partial\,\text{loss}}{\partial\log\pi_l} = +\beta\,\sigma(-\text{margin}).$$
#
# Three things to read off. The *size* $\sigma(-\text{margin})$ is the probability that the implicit reward
# gives to the wrong order, if the margin is read as log-odds: a pair that is right by far hardly pulls.
# $\beta$ stands in front. And the two are equal and opposite.

# %%
harder = teach.predict("which of the two log-probs does the loss push harder?", "chosen",
                       among=["chosen", "rejected", "neither"])

# %%
print(f"∂loss/∂log π(chosen)   {up:+.6f}   descent raises it")
print(f"∂loss/∂log π(rejected) {down:+.6f}   descent lowers it")
harder.reveal("neither", because="The loss knows only their difference. Whether the chosen answer becomes "
              "likelier is up to the model that both share.")

# %% [markdown]
# The loss and the weight against the margin, with the pair on both curves. Far to the left, where the order is
# wrong, the loss is nearly a straight line and the weight nearly 1; far to the right both vanish.

# %%
margins = np.linspace(-6, 6, 241)
losses, slopes, _ = minimal.dpo_loss(margins, 0, 0, 0, 1.0)

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
left.plot(margins, losses, color=figures.POLICY)
left.plot(margin, loss, "o", color="black")
left.annotate(f"the pair: {loss:.3f}", (margin, loss), (10, 12), textcoords="offset points")
left.set(title="loss = -log σ(margin)", xlabel="margin")
right.plot(margins, -slopes, color=figures.POLICY)
right.plot(margin, -up / beta, "o", color="black")
right.annotate(f"the pair: {-up / beta:.3f}", (margin, -up / beta), (10, 6), textcoords="offset points")
right.set(title="weight = σ(-margin)", xlabel="margin");

# %% [markdown]
# ## A step
#
# Now with a model: a bigram over four tokens (0 begins and ends an answer), whose table `W[current, next]`
# holds logits. Chosen is *1 2 end*, rejected is *1 3 end*: they share the first token and part at the second.
# From logits to updated table it is one page, [minimal.py](../dpo_numpy/minimal.py), which this calls.

# %%
chosen = (np.array([[0, 1, 2, 0]]), np.array([[0, 1, 1, 1]]))  # tokens, and which of them are the answer's
rejected = (np.array([[0, 1, 3, 0]]), np.array([[0, 1, 1, 1]]))
reference = np.zeros((4, 4))


def log_probs(W):
    return [minimal.sequence_logps(W[tokens], tokens, mask)[0].item() for tokens, mask in (chosen, rejected)]


before = log_probs(reference)
_, W = minimal.dpo_step(reference, reference, chosen, rejected, beta, lr=1.0)
after = log_probs(W)
for name, old, new in zip(("chosen", "rejected"), before, after, strict=True):
    print(f"{name:<9} {old:.4f} -> {new:.4f} nats: {new - old:+.4f}")
print("rows of W that moved:", np.flatnonzero(np.abs(W).max(axis=1)).tolist())

# %% [markdown]
# Row 1 moved, where the answers part: 2 up, 3 down. So did rows 2 and 3, how each answer ends. Row 0, the first
# token, which both share, did not: its two pushes cancel. A beginning that both share is not in the margin,
# whatever the model.
#
# Here chosen rose. Now let the answers share a step further on, from 1 to 2, and train for longer:

# %%
chosen = (np.array([[0, 1, 1, 2, 0]]), np.array([[0, 1, 1, 1, 1]]))
rejected = (np.array([[0, 1, 2, 2, 0]]), np.array([[0, 1, 1, 1, 1]]))
fate = teach.predict("1 1 2 end is chosen over 1 2 2 end. After 300 steps, has its log-prob risen or fallen?", "risen",
                     among=["risen", "fallen"])

# %%
before, path, W = log_probs(reference), [], reference
for _ in range(300):
    path.append(np.subtract(log_probs(W), before))
    _, W = minimal.dpo_step(W, reference, chosen, rejected, beta, lr=1.0)
path = np.array(path)
assert (np.diff(path[:, 0] - path[:, 1]) > 0).all()  # the gap grows with every step

figure, axis = plt.subplots(figsize=(7, 3.4))
for k, (name, color) in enumerate({"chosen": figures.CHOSEN, "rejected": figures.REJECTED}.items()):
    axis.plot(path[:, k], color=color)
    axis.annotate(name, (len(path), path[-1, k]), (4, -8), textcoords="offset points", color=color)
axis.plot(path[:, 0] - path[:, 1], color="black")
axis.annotate("the gap", (len(path), path[-1, 0] - path[-1, 1]), (4, -4), textcoords="offset points")
axis.axhline(0, color=figures.REFERENCE, lw=1)
axis.set(xlabel="step", ylabel="change of log π, nats", xlim=(0, 345))

fate.reveal("risen" if path[-1, 0] > 0 else "fallen", because="The gap grows with every step; that is "
            "all the loss asks for. Why, and when it cannot happen, is notebook 07.")

# %% [markdown]
# ## Exercises
#
# Each has a `.hint()`, a `.check(yours)` that names the mistake, and a `.solve()` that prints a solution. The
# answers below are wrong on purpose.

# %%
exercise = teach.exercise("pair_gradient")


def gradient(pc, pr, rc, rr, beta):
    margin = beta * ((pc - rc) - (pr - rr))
    weight = 1 / (1 + math.exp(-margin))
    return -beta * weight, beta * weight


exercise.check(gradient)

# %%
exercise = teach.exercise("beta_for_certainty")
exercise.check(0.8 / 2.2)

# %% [markdown]
# **Next:** [02 · the derivation](02_derivation.ipynb): where the loss comes from, line by line.

