# %% [markdown]
# # 12 · Verify your own implementation
#
# **Claim: a test that compares a DPO loss with its formula at ordinary numbers sees neither an overflow at
# margins that it never tries, nor a gradient that is wrong where every value is right.** This notebook writes
# losses as people write them, bugs included, and lets a kit find and name them: at the log-probs, at the
# gradient, at the tokens, at the batch. Then it looks at what a dtype can hold, where no bug is needed.

# %%
import matplotlib.pyplot as plt
import numpy as np

import dpo_numpy as dn
from dpo_numpy import figures, minimal, teach

plt.style.use(figures.STYLE)
BLACK, ORANGE, SKY = figures.COLORS[:3]


def tell(report):
    wrong = [line for line in report.lines if line.verdict == "FAIL"]
    print("agrees" if report.agrees else
          f"fails {len(wrong)} of {len(report.lines)} tests: {', '.join(report.mistakes)}")
    if wrong:
        says = wrong[0].says.split(": value")[0].split(": gradient")[0]
        print(f"  {wrong[0].test}: {says}")

# %% [markdown]
# ## A loss, and a test that it passes
#
# $-\log\sigma(m) = \log(1 + e^{-m})$. So one writes, and tests on the tutorial's pair:

# %%
def mine(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=0.1):
    margin = beta * ((policy_chosen - policy_rejected) - (ref_chosen - ref_rejected))
    return np.log(1 + np.exp(-margin))


pair = (-2.1, -4.5, -3.0, -3.2)
assert np.isclose(mine(*pair), minimal.dpo_loss(*pair, 0.1)[0], rtol=1e-14, atol=0)
print(f"loss {mine(*pair):.6f}, right to 14 digits")
kit = teach.predict("Will it agree with DPO wherever the kit asks?", "yes", among=["yes", "no"])

# %% [markdown]
# `dn.verify` calls a function on probing inputs, ordinary and extreme ones, and compares it with exact
# answers. Parameters are recognized by their names, $\beta$ is varied.

# %%
report = dn.verify(mine, "dpo", beta=0.1)
tell(report)
kit.reveal("yes" if report.agrees else "no", because="Where a policy is wrong and sure of it, e^-m "
           "exceeds the largest float64: one such pair, and the batch's mean is infinite. (A "
           "framework's autograd makes the gradient ∞/∞, NaN.)")

# %%
def fixed(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=0.1):
    margin = beta * ((policy_chosen - policy_rejected) - (ref_chosen - ref_rejected))
    return np.logaddexp(0, -margin)  # log(e^0 + e^-margin), the larger exponent taken out


tell(dn.verify(fixed, "dpo", beta=0.1))

# %% [markdown]
# ## Right values, wrong gradient
#
# Who writes gradients by hand returns them beside the losses. Here $\beta$ was forgotten in front:

# %%
def by_hand(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=0.1):
    margin = beta * ((policy_chosen - policy_rejected) - (ref_chosen - ref_rejected))
    weight = np.exp(-np.logaddexp(0, margin))  # σ(-margin)
    return np.logaddexp(0, -margin), -weight, weight


assert np.isclose(by_hand(*pair)[0], minimal.dpo_loss(*pair, 0.1)[0], rtol=1e-14, atol=0)
curve = teach.predict("Trained with it, at the same learning rate: what does the loss curve show?",
                      "it does not fall", among=["it does not fall", "it falls, faster", "NaN"])

# %%
tell(dn.verify(by_hand, "dpo", beta=0.1))
for name, factor in (("right", 0.1), ("by hand", 1.0)):
    a = b = 0.0  # log-ratios of a pair
    for _ in range(100):
        _, da, db = by_hand(a, b, 0.0, 0.0)
        a, b = a - factor * da, b - factor * db
    print(f"{name:<8} loss after 100 steps {by_hand(a, b, 0.0, 0.0)[0]:.4f}")
curve.reveal("it falls, faster", because="In plain descent a factor on the gradient is another "
             "learning rate. No curve shows it, and a change of β then does something else.")

# %% [markdown]
# Without a kit, `dn.check_gradient` holds a gradient against differences, along a random direction:

# %%
def loss_of(params):
    return fixed(params["chosen"], params["rejected"], -3.0, -3.2).sum()


at = {"chosen": np.array([-2.1, -7.0]), "rejected": np.array([-4.5, -1.0])}
_, *slopes = by_hand(at["chosen"], at["rejected"], -3.0, -3.2)
found = dn.check_gradient(loss_of, at, dict(zip(at, slopes, strict=True)), np.random.default_rng(0))
print(f"claimed {found.claimed:.4f}, measured {found.measured:.4f}, "
      f"{found.claimed / found.measured:.4f} times as much")

# %% [markdown]
# ## Which loss is it?
#
# A loss may be right, and not the one that was meant. `dn.identify` tries all of the registry, then known
# mistakes:

# %%
def lost_beta(policy_chosen, policy_rejected, ref_chosen, ref_rejected):
    return np.logaddexp(0, -((policy_chosen - policy_rejected) - (ref_chosen - ref_rejected)))


def lost_reference(policy_chosen, policy_rejected, ref_chosen, ref_rejected):
    return np.logaddexp(0, -0.1 * (policy_chosen - policy_rejected))


def smoothed(policy_chosen, policy_rejected, ref_chosen, ref_rejected, label_smoothing=0.1):
    margin = 0.1 * ((policy_chosen - policy_rejected) - (ref_chosen - ref_rejected))
    loss = (1 - label_smoothing) * np.logaddexp(0, -margin)
    return (loss - label_smoothing * np.logaddexp(0, margin)) / (1 - 2 * label_smoothing)


for function in (lost_beta, lost_reference, smoothed):
    print(f"{function.__name__:<15} {dn.identify(function, beta=0.1)}")
    assert function is lost_reference or np.isclose(function(-3.0, -3.2, -3.0, -3.2), np.log(2))

# %% [markdown]
# The first and the last are $\log 2$ where the policy is its reference, as they should: a test of the first
# step says nothing of $\beta$.
#
# ## From logits to a log-prob
#
# Many bugs live here, at the **seam** "sequence". The logits at position $t$ are of the token at $t + 1$;
# prompt and padding do not count. Four ways to read a row:

# %%
def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def right(logits, tokens, mask):
    logp = np.take_along_axis(log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)[..., 0]
    return (logp * mask[:, 1:]).sum(axis=1)


def unshifted(logits, tokens, mask):
    logp = np.take_along_axis(log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    return (logp * mask).sum(axis=1)


def all_counted(logits, tokens, mask):
    return right(logits, tokens, np.ones_like(mask))


def averaged(logits, tokens, mask):
    return right(logits, tokens, mask) / mask[:, 1:].sum(axis=1).clip(1)


for function in (right, unshifted, all_counted, averaged):
    report = dn.verify(function, "logp", seam="sequence")
    print(f"{function.__name__:<12} {'agrees' if report.agrees else ', '.join(report.mistakes)}")

# %%
row = ["my", "order", "late", "so", "sorry", "end", "-", "-"]
tokens, mask = np.array([[1, 2, 3, 4, 5, 0, 0, 0]]), np.array([[0, 0, 0, 1, 1, 1, 0, 0]])
logits, bump = np.random.default_rng(0).normal(size=(1, 8, 6)), 1e-6
moved = []
for function in (right, unshifted, all_counted):
    pull = np.zeros((8, 6))
    for where in np.ndindex(8, 6):
        step = np.zeros_like(logits)
        step[(0, *where)] = bump
        up, down = (function(logits + sign * step, tokens, mask)[0] for sign in (1, -1))
        pull[where] = up - down
    moved.append(np.abs(pull).sum(axis=1) > 1e-9)

figure, axis = plt.subplots(figsize=(7, 2.2))
for k, positions in enumerate(moved):
    axis.plot(np.flatnonzero(positions), [-k] * positions.sum(), "o", ms=12, color=BLACK)
axis.set_yticks([0, -1, -2], ["right", "unshifted", "all counted"])
axis.set_xticks(range(8), row)
axis.axvspan(2.5, 5.5, color=SKY, alpha=0.2, lw=0)
axis.annotate("the answer", (4, 0.45), ha="center")
axis.set(xlim=(-0.5, 7.5), ylim=(-2.6, 0.9), title="logits that have a gradient");

# %% [markdown]
# The right one begins one *before* the answer, at the logits that predict its first token, and ends one
# before its end. One more seam, the batch: which rows are a pair? Stacked as halves, or interleaved:

# %%
def paired(logits, reference_logits, tokens, mask, beta=0.1):
    ratio = right(logits, tokens, mask) - right(reference_logits, tokens, mask)
    return np.logaddexp(0, -beta * (ratio[::2] - ratio[1::2])).mean()


for layout in ("interleaved", "halves"):
    print(f"asked for {layout}", end=": ")
    tell(dn.verify(paired, "dpo", seam="batch", layout=layout, beta=0.1))

# %% [markdown]
# ## What a dtype can hold
#
# No bug at all is needed to lose nats. float64 keeps 53 binary digits, float32 24, float16 11, **bfloat16** 8.
# Between 128 and 256, neighbors in bfloat16 are 1 nat apart, and a log-prob of an answer is a sum of that size.

# %%
def bf16(x):
    digits, exponent = np.frexp(x)
    return np.ldexp(np.rint(digits * 256) / 256, exponent)


stall = teach.predict("400 tokens of -0.5 nats each, added one by one in bfloat16: the sum?", -199)

# %%
total = 0.0
for _ in range(400):
    total = bf16(total - 0.5)
stall.reveal(float(total), within=0.5, because="From -128 on, half a nat is half the spacing, and "
             "is rounded away.")
print(f"the reward at step 0, if the reference's sum was float32: 0.1 x {total + 200:.0f} nats")

# %% [markdown]
# Policy and reference were the same model. So much for "rewards should be 0 at step 0": they are if both are
# computed alike, in the same batches, the same dtype. Sum in float32 or better. The overflow of `mine`, too,
# depends on the dtype:

# %%
known = {name: (float(np.finfo(name).eps), float(np.finfo(name).max))
         for name in ("float64", "float32", "float16")}
known["bfloat16"] = (2.0**-7, (2 - 2.0**-7) * 2.0**127)
print("          log(1 + e^-m) is inf below, 0 above   spacing at 200 nats")
for name, (eps, largest) in known.items():
    print(f"{name:<9} {-np.log(largest):21.1f} {-np.log(eps / 2):8.1f} {eps * 128:18.3g}")

sizes = np.geomspace(0.5, 2000, 2000)
figure, axis = plt.subplots(figsize=(6.4, 3.4))
for (name, (eps, _)), line in zip(known.items(), ("-", "-", "--", "-"), strict=True):
    axis.loglog(sizes, eps * 2.0**np.floor(np.log2(sizes)), line, color=BLACK)
    axis.annotate(name, (2200, eps * 1024), va="center")
axis.axvspan(100, 1000, color=SKY, alpha=0.2, lw=0)
axis.annotate("answers", (316, 3e-8), ha="center")
axis.axhline(0.1, color=ORANGE, ls=":")
axis.annotate("0.1 nat", (0.52, 0.14))
axis.set(xlabel="size of a log-prob, nats", ylabel="distance to the next number",
         xlim=(0.5, 1.5e4));

# %% [markdown]
# ## In a project's own tests
#
# The same from a shell, also for torch and JAX, exit code 0 if it agrees (the file is executed: name only what
# you trust):
#
#     dpo-numpy verify my_losses.py:dpo_loss --loss dpo --beta 0.1 --framework torch --dtype float32
#     dpo-numpy identify my_losses.py:dpo_loss --beta 0.1
#     dpo-numpy golden dpo                # inputs, values, gradients, right to the last bit, for any language
#
# [docs/verify.md](../docs/verify.md) has the seams, the names that parameters may have, and how often the kit
# errs.
#
# ## Exercises
#
# The answers below are wrong on purpose.

# %%
exercise = teach.exercise("verify_stable_loss")
exercise.check(lambda *pair: -np.log(1e-8 + np.exp(-minimal.dpo_loss(*pair)[0])))

# %%
exercise = teach.exercise("verify_sequence_logp")
exercise.check(unshifted)

# %% [markdown]
# **Next:** [13 · capstone](13_capstone.ipynb): predict what DPO does to three pairs, then run it.
