# %% [markdown]
# # 04 · Four models or two
#
# **Claim: on a table, told the same preferences at one β, PPO with four models and DPO with two end at the same
# policy; and with models of one size PPO holds exactly twice DPO's bytes in training, two trained and two
# frozen models against one of each.** First the bytes, which are an account, then a world of four answers in
# which every road can be walked to its end.

# %%
import matplotlib.pyplot as plt
import numpy as np

import dpo_numpy as dn
from analytic import optimum
from dpo_numpy import figures, teach
from toy_models import Tabular, bandit

plt.style.use(figures.STYLE)

# %% [markdown]
# ## Who is in memory
#
# Both methods want a policy $\pi$ with much reward that stays near the reference:
#
# $$J(\pi) = \mathbb E_{y\sim\pi}\, r(y) - \beta\,\mathrm{KL}(\pi\,\Vert\,\pi^{ref}).$$
#
# **PPO** walks uphill on $J$ with answers that it draws itself. It needs
#
# - the **policy**, which is trained;
# - the **reference**, frozen, for the KL;
# - a **reward model**, trained on preferences beforehand and then frozen, to judge what was drawn;
# - a **value model**, trained along the way, to guess how much reward to expect: only the surprise counts.
#
# **DPO** learns from pairs that were judged beforehand. It draws nothing, so that there is nothing to judge
# and nothing to guess: a policy and a reference.
#
# ## What a model costs
#
# Weights in bfloat16 take 2 bytes a parameter. A frozen model is its weights. A model that is trained by Adam
# in mixed precision also has a gradient, of 2 bytes, and, in float32, a master copy of the weights and two
# moments.

# %%
FROZEN = 2
TRAINED = 2 + 2 + 4 + 4 + 4  # weights, gradient, master copy, Adam's two moments
print(f"bytes a parameter: frozen {FROZEN}, trained {TRAINED}")

# %% [markdown]
# By weights alone PPO is $4\times 2 = 8$ bytes and DPO $2\times 2 = 4$, a ratio of 2: this is the number of
# tutorials. But nothing is trained with weights alone.

# %%
ratio = teach.predict("models of one size: what PPO holds in training, over what DPO holds", 1.5)

# %%
holds = {
    "PPO": {"policy": TRAINED, "reference": FROZEN, "reward model": FROZEN, "value model": TRAINED},
    "RLOO, GRPO": {"policy": TRAINED, "reference": FROZEN, "reward model": FROZEN},
    "GRPO, a rule judges": {"policy": TRAINED, "reference": FROZEN},
    "DPO": {"policy": TRAINED, "reference": FROZEN},
    "DPO, reference stored": {"policy": TRAINED},
}
total = {method: sum(models.values()) for method, models in holds.items()}
library = [dn.memory("ppo", 1), dn.memory("rloo", 1), dn.memory("grpo", 1, reward_model=0),
           dn.memory("dpo", 1), dn.memory("dpo", 1, reference=0)]
assert list(total.values()) == [method.state for method in library]

ratio.reveal(total["PPO"] / total["DPO"], because="Two trained and two frozen models "
             "against one of each, 36 bytes a parameter against 18.")

# %%
colors = {"policy": figures.POLICY, "reference": figures.REFERENCE,
          "reward model": figures.COLORS[1], "value model": figures.COLORS[2]}
figure, axis = plt.subplots(figsize=(8, 3.2))
for row, models in enumerate(holds.values()):
    left = 0
    for role, size in models.items():
        hatch = "//" if size == FROZEN else None
        axis.barh(row, size, left=left, color=colors[role], edgecolor="white", hatch=hatch)
        if size == TRAINED:
            axis.text(left + size / 2, row, f"{role} {size}", ha="center", va="center")
        left += size
    axis.text(left + 0.4, row, f"{left}", va="center")
axis.text(17.5, -0.6, "reference 2, reward model 2", ha="center", va="center", fontsize=9)
axis.set(yticks=range(len(holds)), yticklabels=holds, xlim=(0, 40), ylim=(4.6, -0.9),
         xlabel="bytes a parameter in training; hatched: frozen");

# %% [markdown]
# - **A trained model weighs as much as eight frozen ones.** How many are *trained* decides.
# - **RLOO and GRPO need no value model:** they draw several answers to a prompt and compare each with the
#   others. Where a rule judges, as for arithmetic, GRPO holds what DPO holds.
# - **The ratio of 2 is no law.** A value model of another size breaks it: see the first exercise.
#
# The reference never changes, and neither do the pairs. Its log-probs, two numbers a pair, can be computed
# once and stored; then DPO holds a single model.

# %%
saved = teach.predict("DPO drops one of its two models: which share of its memory is saved?", 0.5)

# %%
saved.reveal(1 - total["DPO, reference stored"] / total["DPO"], because="It was frozen, "
             "2 bytes of 18. What storing really saves is a forward pass at every step.")

# %% [markdown]
# Not counted is what depends on batch, length and machine: activations, caches while answers are drawn,
# adapters, sharding. And PPO's reward model was trained before: 16 bytes a parameter, at another time.
#
# ## The same world, by both
#
# One prompt, four answers, and rewards that we know. The best policy is known in closed form
# ([02](02_derivation.ipynb) derives it): $\pi^*(y) \propto \pi^{ref}(y)\,e^{r(y)/\beta}$.

# %%
beta = 0.5
reward = np.array([1.0, 0.2, 0.0, -0.3])
reference = np.array([0.1, 0.2, 0.3, 0.4])
best = reference * np.exp(reward / beta)
best /= best.sum()
assert np.allclose(best, optimum.boltzmann(reference, reward, beta), atol=1e-12)


def softmax(logits):
    p = np.exp(logits - logits.max())
    return p / p.sum()


def distance(pi):
    return float(np.sum(pi * np.log(pi / best)))


print("reference", reference)
print("π*       ", best.round(4))
print(f"KL(reference || π*) = {distance(reference):.4f} nats")

# %% [markdown]
# **Uphill on J.** Of probabilities $\pi = \mathrm{softmax}(W)$ the gradient is exact, without drawing:
# $\pi\,(R - \bar R)$, with the penalized reward $R = r - \beta\log(\pi/\pi^{ref})$ and its mean $\bar R$
# under $\pi$. This $\bar R$ is what PPO's value model has to guess.

# %%
logits, gradient_path = np.log(reference), []
for _ in range(60):
    pi = softmax(logits)
    gradient_path.append(distance(pi))
    R = reward - beta * np.log(pi / reference)
    logits = logits + 4.0 * pi * (R - pi @ R)
assert gradient_path[-1] < 1e-12

# %% [markdown]
# **DPO.** All pairs $i, j$; people prefer $i$ with probability $\sigma(r_i - r_j)$. The policy holds
# $\sigma(\beta u_i - \beta u_j)$ to be right, with the log-ratio $u = \log(\pi/\pi^{ref})$. In logits the
# slope is $\beta$ times what the policy believes less what people say, summed over the pairs of an answer.

# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


people = sigmoid(reward[:, None] - reward)
logits, dpo_path = np.log(reference), []
for _ in range(60):
    pi = softmax(logits)
    dpo_path.append(distance(pi))
    u = beta * np.log(pi / reference)
    logits = logits - 20.0 * beta * (sigmoid(u[:, None] - u) - people).sum(axis=1) / 6  # six pairs
assert dpo_path[-1] < 1e-12

# %% [markdown]
# **PPO**, as it is used: a reward model is fitted to the same preferences. Then four answers are drawn,
# judged, and compared with what the value model expects; two steps are taken on them, at a constant step
# size; and four more are drawn.

# %%
table, start, zero = Tabular(vocab=4), {"W": np.log(reference)[None]}, {"W": np.zeros((1, 4))}
world = bandit(reward[None])
for fitted in dn.train_reward_model(table, zero, [world.population()] * 40, dn.sgd(5.0)):
    judge = fitted.params
assert np.ptp(judge["W"][0] - reward) < 1e-6  # right up to a constant, which nobody needs

# %%
noise = teach.predict("PPO's answers are random, its steps never shrink. KL to π* after 400 steps?", 0.01)

# %%
task = world.task()._replace(reward=dn.reward_model(table, judge))
ppo_path = [distance(reference)]
training = dn.train_ppo(table, start, table, zero, task, dn.sgd(2.0), dn.sgd(2.0),
                        np.random.default_rng(0), group=4, beta=beta, epochs=2)
for _, step in zip(range(400), training, strict=False):
    ppo_path.append(distance(softmax(step.params["W"][0])))
value = step.critic_params["W"].mean()
assert max(ppo_path[-20:]) < 1e-11
assert np.allclose(judge["W"][0] - beta * np.log(best / reference), value, atol=1e-5)  # R
noise.reveal(0.0, because="KL < 1e-11 here. At π* the penalized reward R is the same for every "
             "answer, and the value model has learned it: no draw is a surprise any more.")

# %%
figure, axis = plt.subplots(figsize=(7.5, 3.6))
for path, name, color, style, at in (
        (dpo_path, "DPO, every pair", figures.COLORS[2], "--", (0.4, 3e-11)),
        (gradient_path, "exact gradient of J", figures.COLORS[0], "-", (12.5, 3e-11)),
        (ppo_path, "reward model, then PPO", figures.COLORS[1], "-", (25.5, 1e-7))):
    axis.semilogy(np.maximum(path, 1e-16), style, color=color)
    axis.text(*at, name, color=color)
    print(f"{name:<23} KL < 1e-6 after {int(np.argmax(np.array(path) < 1e-6)):>2} steps")
axis.set(xlabel="gradient steps", ylabel="KL(π || π*), nats", xlim=(0, 42), ylim=(1e-12, 2));

# %% [markdown]
# ## Where they do differ
#
# How many steps a road takes depends on the step sizes; where all three end does not.
#
# Outside of toys rewards are never known. There are labels: say 400 pairs, each judged once. One road fits a
# reward model to them and goes to that model's $\pi^{ref}e^{\hat r/\beta}/Z$, where PPO would end; the other
# is DPO on the same labels.

# %%
nearer = teach.predict("400 labels: which road ends nearer to π*, at the same β?", "reward model",
                       among=["reward model", "DPO", "neither"])

# %%
labels = world.sample(400, np.random.default_rng(1)).with_reference(table, start)
batches = [labels] * 200
for fitted in dn.train_reward_model(table, zero, batches, dn.sgd(5.0)):
    estimate = fitted.params["W"][0]
by_model = softmax(np.log(reference) + estimate / beta)
for step in dn.train(table, start, batches, dn.LOSSES["dpo"](beta=beta), dn.sgd(20.0)):
    by_dpo = softmax(step.params["W"][0])
assert np.allclose(by_model, by_dpo, atol=1e-9)

print("π* ", best.round(4))
print("reward model, then its optimum", by_model.round(4))
print("DPO on the same labels        ", by_dpo.round(4))
nearer.reveal("neither", because=f"They are one policy, KL = {distance(by_dpo):.4f}. What labels "
              "do not tell is lost at once on either road, and no drawn answer brings it back.")

# %% [markdown]
# Two things are not settled here. Where answers share weights, it matters which are looked at: PPO looks at
# those it gives now, DPO at those in the data ([09](09_distribution_shift.ipynb)). And a name is no
# objective: GRPO *as published*, with advantages over the group's deviation and its KL in the loss, ends
# elsewhere at the same $\beta$ ([docs/roads.md](../docs/roads.md) says where).
#
# ## Exercises
#
# The answers below are wrong on purpose.

# %%
exercise = teach.exercise("models_small_value")
exercise.check(2.0)

# %%
exercise = teach.exercise("models_leave_one_out")


def leave_one_out(rewards):
    rewards = np.asarray(rewards, float)
    return rewards - rewards.mean()


exercise.check(leave_one_out)

# %% [markdown]
# **Next:** [05 · Bradley-Terry](05_bradley_terry.ipynb), the equation under every preference label. More: all
# roads, on a table and on a language, in [docs/roads.md](../docs/roads.md), by the experiment
# [five_roads](../toy_models/experiments/five_roads.py); the account in
# [accounts.py](../dpo_numpy/accounts.py).
