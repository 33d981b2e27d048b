# %% [markdown]
# # 13 · Capstone: predict three pairs, then run
#
# **Claim: which way a small first step of DPO moves each chosen and each rejected log-prob can be computed by
# hand, from inner products of gradients; and it does not tell where they end.** You predict six directions
# with a pencil, run one step, then a thousand, and see what your prediction was good for. It ends with real
# sentences.

# %%
import matplotlib.pyplot as plt
import numpy as np

import dpo_numpy as dn
from dpo_numpy import figures, teach
from toy_models import NGram

plt.style.use(figures.STYLE)

# %% [markdown]
# ## Three pairs
#
# The alphabet is *a, b, c* and the end, written *.*; the policy is a bigram, a table of logits with a row for
# each symbol that the next one follows. An answer begins after a *.* and ends with one. At the start the table is
# 0, all four symbols are equally likely after anything, and the policy is the reference.

# %%
ALPHABET = ".abc"
PAIRS = [("cbb.", "ca."), ("a.", "c."), ("bc.", "bb.")]  # chosen, rejected

for chosen, rejected in PAIRS:
    print(f"{chosen:>5} is preferred to {rejected}")

# %% [markdown]
# The derivative of an answer's log-prob with respect to row $s$ of the table is *what followed $s$ in the answer,
# minus what one would expect*: counts $C[s]$, minus the number of visits $n[s]$ times the probabilities $p$. Here
# $p$ is ¼ everywhere. For *cbb.*, after *b* came one *b* and one *end* in two visits, so that its row is (1, 0,
# 1, 0) - 2 · (¼, ¼, ¼, ¼) = (½, -½, ½, -½).

# %%
def counts(answer):
    C = np.zeros((4, 4))
    for now, following in zip("." + answer, answer):
        C[ALPHABET.index(now), ALPHABET.index(following)] += 1
    return C


def score(answer):
    C = counts(answer)
    return C - C.sum(axis=1, keepdims=True) * 0.25


print("∂ log π(cbb.)/∂W, a row for each of '.', a, b, c:")
print(score("cbb."))

# %% [markdown]
# A step of size $\eta$ on the mean loss of the three pairs moves the table by $\eta\beta\,\sigma(0)/3 =
# \eta\beta/6$ times the sum over pairs of (score of its chosen − score of its rejected): all margins are 0, so
# all weights are ½. The change of an answer's log-prob is, to first order, the inner product of its own score
# with that:
#
# $$\Delta\log\pi(i) \approx \frac{\eta\beta}{6}\sum_p \bigl(G_{i,w_p} - G_{i,l_p}\bigr),\qquad
# G_{ij} = \langle \text{score}_i, \text{score}_j\rangle .$$
#
# **Take a pencil.** Scores of two answers have something to say to each other only where they visit the same
# symbol. Write down six directions, then run on. The ones stored here are those of somebody who thinks that DPO
# raises the chosen and lowers the rejected.

# %%
mine = {}
for chosen, rejected in PAIRS:
    for answer, role, guess in [(chosen, "chosen", "rises"), (rejected, "rejected", "falls")]:
        mine[answer] = teach.predict(f"first step: {answer} ({role})", guess, among=["rises", "falls"])

# %%
answers = [answer for pair in PAIRS for answer in pair]
scores = np.array([score(answer).ravel() for answer in answers])
G = scores @ scores.T
sign = np.array([1, -1, 1, -1, 1, -1])
first_order = G @ sign  # in units of ηβ/6

for answer, change in zip(answers, first_order):
    print(f"{answer:>5} {change:+.2f} ηβ/6")
    mine[answer].reveal("rises" if change > 0 else "falls")

# %% [markdown]
# The first chosen answer falls from the very first step. Look at its row of $G$, with the sign of each answer's
# push:

# %%
print("      " + "".join(f"{answer:>8}" for answer in answers))
for k in (0, 1):
    row = "".join(f"{x:+8.2f}" for x in G[k] * sign)
    print(f"{answers[k]:>5} {row}   sum {first_order[k]:+.2f}")

# %% [markdown]
# Its own push is by far the largest entry, and still the others outweigh it. The most harmful is *bc.*, which is
# chosen itself: at each of the three symbols that the two visit, *bc.* wants another one to follow. Lowering
# *bb.*, *c.* and *ca.* takes along what they share with *cbb.*. **What an answer does is decided by all that it
# shares symbols with, chosen or not.**
#
# ## One step
#
# Now the machinery: the same pairs, the library's bigram, one step of plain descent.

# %%
tokens = {answer: [ALPHABET.index(x) for x in answer] for answer in answers}
pairs = dn.Preferences.of([[0]] * 3, [tokens[y] for y, _ in PAIRS], [tokens[y] for _, y in PAIRS])
policy, table = NGram(vocab=4, order=2), {"W": np.zeros((4, 4))}
beta, lr = 0.1, 1.0
batch, loss = pairs.with_reference(policy, table), dn.LOSSES["dpo"](beta=beta)


def log_probs(params):
    return dn.read(policy, params, pairs.responses, pairs.index.ravel(), ["logp"])[0]["logp"]


start, path = log_probs(table), []
for step in dn.train(policy, table, [batch] * 1000, loss, dn.sgd(lr)):
    path.append(log_probs(step.params) - start)
path = np.array(path)  # (1000, 6)

predicted = lr * beta / 6 * first_order
for k, answer in enumerate(answers):
    print(f"{answer:>5} predicted {predicted[k]:+.4f}, after one step {path[0, k]:+.4f} nats")
assert (np.sign(path[0]) == np.sign(predicted)).all()
assert np.allclose(path[0], predicted, rtol=0, atol=3e-4)

# %% [markdown]
# All six directions are right, and the sizes but for what is of second order in the step.
#
# ## A thousand steps

# %%
kept = teach.predict("how many of the six are still on the side of 0 where the first step put "
                     "them, after 1,000 steps?", 6)
order = teach.predict("in how many of the three pairs is the gap wider than at the start?", 3)

# %%
still = int((np.sign(path[-1]) == np.sign(predicted)).sum())
wider = int((path[-1, ::2] > path[-1, 1::2]).sum())
for k, answer in enumerate(answers):
    print(f"{answer:>5} {path[-1, k]:+7.2f} nats after 1,000 steps")
kept.reveal(still, within=0, because="Steps change the probabilities and the weights σ(-margin): "
            "the inner products of the start are soon those of another table.")
order.reveal(wider, within=0, because="The gap is what the loss sees, and all that is trained.")

# %%
steps = np.arange(1, 1001)
figure, axes = plt.subplots(1, 3, figsize=(8, 3.3), sharey=True)
for p, axis in enumerate(axes):
    for k, color, dashes in ((0, figures.CHOSEN, "-"), (1, figures.REJECTED, "--")):
        axis.plot(steps, path[:, 2 * p + k], dashes, color=color)
        axis.plot(steps, steps * predicted[2 * p + k], ":", color=color, lw=1)
        role = ("chosen", "rejected")[k]
        axis.text(1.2, (-30, -35)[k], f"{answers[2 * p + k]} {role}", color=color)
    axis.hlines(0, 1, 1000, color=figures.REFERENCE, lw=1)
    axis.set(xscale="log", ylim=(-38, 10), xlabel="step", title=" over ".join(PAIRS[p]))
axes[0].set_ylabel("change of log π, nats\n(dotted: first order)");

# %% [markdown]
# ## Sentences
#
# The same on 24 pairs of a support desk, in bytes, for a bigram that was fitted to all answers first; it sees one
# byte back, and never the prompt. Two of the pairs:

# %%
import json
from importlib.resources import files

from dpo_numpy.data import Bytes

text = (files("toy_models") / "data" / "support_desk.jsonl").read_text(encoding="utf-8")
rows = [json.loads(line) for line in text.splitlines()]
for b in (1, 15):
    for name in ("prompt", "chosen", "rejected"):
        print(f"{name:>9}  {rows[b][name]}")
    print()

# %%
rising = teach.predict("of the 24 chosen answers, how many are likelier after 1,000 steps than at "
                       "the start?", 20)

# %%
code = Bytes()
chosen, rejected = ([[*code.encode(row[role]), 0] for row in rows] for role in ("chosen", "rejected"))
pairs = dn.Preferences.of([[0]] * len(rows), chosen, rejected)
policy = NGram.seen(code.vocab, 2, pairs.responses)  # the contexts that occur, and no others
reference, every = policy.fit(pairs.responses), pairs.index.ravel()
batch, loss, lr = pairs.with_reference(policy, reference), dn.LOSSES["dpo"](beta=0.1), 0.3


def log_probs(params):
    return dn.read(policy, params, pairs.responses, every, ["logp"])[0]["logp"].reshape(-1, 2)


_, grad = dn.value_and_grad(policy, reference, batch, loss)
first_order = dn.scores_matrix(policy, reference, pairs.responses, every) @ -grad["W"].ravel()
first_order = first_order.reshape(-1, 2)

start = log_probs(reference)
print("step    signs predicted right    chosen likelier    chosen ahead of rejected")
for number, step in enumerate(dn.train(policy, reference, [batch] * 1000, loss, dn.sgd(lr)), 1):
    if number in (1, 10, 100, 1000):
        change = log_probs(step.params) - start
        right = (np.sign(change) == np.sign(first_order)).sum()
        up, ahead = (change[:, 0] > 0).sum(), (change[:, 0] > change[:, 1]).sum()
        print(f"{number:4} {right:11} of 48 {up:18} of 24 {ahead:18} of 24")
rising.reveal(int(up), because="Only the 24 gaps are trained, and all answers share one table of "
              "bytes. All 24 are ahead of what they were compared with.")
assert ahead == 24

# %% [markdown]
# This is the whole of what a preference pair promises. If you need the chosen answers to become likelier, the
# loss has to say so: [07](07_winning_not_likelier.ipynb) and [10](10_which_variant.ipynb) tell which losses do,
# and what that costs.
#
# ## Exercises

# %%
exercise = teach.exercise("capstone_score")


def score_of(now, following, vocab):
    C = np.zeros((vocab, vocab))
    for a, b in zip(now, following):
        C[a, b] += 1
    return C - 1 / vocab


exercise.check(score_of)

# %%
exercise = teach.exercise("capstone_first_order")


def change(scores, weights, beta, lr):
    chosen, rejected = scores[:, 0], scores[:, 1]
    step = lr * beta * np.einsum("b,bn->n", weights, chosen - rejected)
    return scores @ step


exercise.check(change)

# %%
exercise = teach.exercise("capstone_two_answers")
exercise.check("chosen")

# %% [markdown]
# **More:** `dpo-numpy run predict_three_pairs` does this for a thousand random problems, with the numbers: how
# often a sign is right at each step, and that a kernel held fixed predicts no better
# ([source](../toy_models/experiments/predict_three_pairs.py)). **Back to** [01](01_one_page.ipynb).

