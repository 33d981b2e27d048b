# %% [markdown]
# # 06 · Two knobs in one letter
#
# **Claim: at DPO's optimum a smaller $\beta$ always means a policy farther away; after $T$ steps of descent on
# a table, $T$ large, the $\beta$ that has moved it most is close to $c/\sqrt T$, and a far smaller one has
# hardly begun.** *A low $\beta$ moves the policy farther*, one course says; *a low $\beta$ hardly moves it*,
# says the next. One has looked at the end, the other at the first hundred steps: $\beta$ sets where training
# ends, and how fast it gets there.

# %%
import matplotlib.pyplot as plt
import numpy as np

import dpo_numpy as dn
from analytic import flow, optimum, population
from dpo_numpy import figures, teach

plt.style.use(figures.STYLE)

# %% [markdown]
# ## The first knob: where it ends
#
# One prompt, five answers, rewards known, a reference that likes all five alike. DPO's optimum is
# $\pi^*\propto\pi^{ref}e^{r/\beta}$. How far that is from the reference, KL says.

# %%
reward = np.array([1.0, 0.5, 0.0, -0.5, -1.0])


def softmax(u):
    p = np.exp(u - u.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def kl(u):  # KL(softmax(u) || uniform); u is the log-ratio, up to a constant
    p = softmax(u)
    return (p * np.log(5 * p)).sum(axis=-1)


betas = np.geomspace(0.02, 4, 160)
at_the_end = kl(reward / betas[:, None])
assert (np.diff(at_the_end) < 0).all()  # it falls as β rises, without exception
for beta in (0.1, 0.5, 2.0):
    assert np.allclose(softmax(reward / beta), optimum.boltzmann(np.full(5, 0.2), reward, beta))
    print(f"β = {beta}: π* = {softmax(reward / beta).round(3)}, KL = {kl(reward / beta):.3f} nats")

# %% [markdown]
# ## Descent
#
# Now train: all ten pairs, labels as people with these rewards give them, plain gradient descent on the
# log-ratios $u$ with a step size of 1, for 100 steps.

# %%
farthest = teach.predict("which β has moved farthest from the reference after 100 steps?", "0.02",
                         among=["0.02", "0.3", "3"])

# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


people = sigmoid(reward[:, None] - reward)


def slope(x):  # of the loss in implied rewards x = β u: what the policy says, less what people say
    return (sigmoid(x[..., :, None] - x[..., None, :]) - people).sum(axis=-1) / 10


def train(beta, steps, lr=1.0):
    beta = np.asarray(beta)[..., None]
    u = np.zeros((*beta.shape[:-1], 5))
    for _ in range(steps):
        u = u - lr * beta * slope(beta * u)  # the chain rule: u enters as β u
    return u


wins = population.bradley_terry_wins(reward)
assert np.allclose(0.3 * slope(0.3 * reward), population.gradient(reward, wins, 0.3))
three = kl(train([0.02, 0.3, 3.0], 100))
print("KL after 100 steps", three.round(4))
print("       at the end  ", kl(reward / np.array([[0.02], [0.3], [3.0]])).round(4))
farthest.reveal(["0.02", "0.3", "3"][three.argmax()], because="0.02 has far to go and has hardly "
                "begun; 3 has arrived, nearby.")

# %%
figure, axis = plt.subplots(figsize=(8, 4))
axis.loglog(betas, at_the_end, color=figures.OPTIMUM)
axis.text(0.1, 2.1, "at the optimum", color=figures.OPTIMUM)
for steps, style in ((10, ":"), (100, "--"), (1000, "-.")):
    moved = kl(train(betas, steps))
    axis.loglog(betas, moved, style, color=figures.POLICY)
    axis.plot(betas[moved.argmax()], moved.max(), "o", color=figures.POLICY)
    axis.text(0.025, moved[0] * 0.6, f"{steps} steps", color=figures.POLICY)
axis.set(xlabel="β", ylabel="KL(π || reference), nats", ylim=(3e-5, 5));

# %% [markdown]
# ## The second knob: the clock
#
# Look at the implied rewards $x = \beta u$ instead of $u$. A step of $u$ by $-\eta\beta\,\nabla L(x)$ is a
# step of $x$ by
#
# $$x \leftarrow x - \eta\beta^2\,\nabla L(x),$$
#
# and $\beta$ is nowhere else. In small steps **every $\beta$ walks the same path** to $x = r$, where the
# likelihood of notebook 05 is largest; $\beta^2$ is the pace. The policy is then told $x/\beta$.

# %%
double = teach.predict("halve β: how many times as many steps until x is within 0.01 of r?", 2)

# %%
def steps_until(beta):
    x, steps = np.zeros(5), 0
    while np.abs(x - reward).max() > 0.01:
        x, steps = x - beta**2 * slope(x), steps + 1
    return steps


few, many = steps_until(0.4), steps_until(0.2)
assert abs(many / few - 4) < 0.03
double.reveal(many / few, because=f"{few} steps at β = 0.4, {many} at 0.2: the pace is β².")

# %% [markdown]
# Early on the policy's distance is $x(\eta\beta^2 T)/\beta \approx \eta\beta T d$, with $d$ the first slope:
# **a larger $\beta$ moves more a step**. At the end it is $r/\beta$: a larger $\beta$ has moved less. In
# between one $\beta$ moves most. As $T$ grows that one gets small, nearly all probability is on the best
# answer, and what counts is its lead over the next, $(x_1 - x_2)/\beta$. This is largest at
# $\beta = c/\sqrt T$, where $c$ is the $s$ that makes $(x_1 - x_2)/s$ largest, with $x$ taken at time $s^2$.

# %%
time = 0.01 * np.arange(1, 4000)
x, leads = np.zeros(5), []
for _ in time:
    x = x - 0.01 * slope(x)
    leads.append(x[0] - x[1])
c = np.sqrt(time[np.argmax(leads / np.sqrt(time))])
for steps in (100, 1000, 10000):
    near = c / np.sqrt(steps) * np.linspace(0.8, 1.6, 161)
    most = near[kl(train(near, steps)).argmax()]
    print(f"T = {steps:>5}: β = {most:.3f} has moved most; c/√T = {c / np.sqrt(steps):.3f}")
    assert abs(most * np.sqrt(steps) / c - 1) < 0.03

# %% [markdown]
# ## Setting the clock right
#
# With steps of $\eta/\beta^2$ in place of $\eta$ all $\beta$ have the same $x$ after $T$ steps, and at every
# $T$ a smaller $\beta$ has moved the policy farther. Adam divides a gradient by its own size, and $u$, not $x$,
# then moves at a pace without $\beta$, at first:

# %%
same = [x * train(x, 100, lr=1 / x**2) for x in (0.1, 2.0)]
assert np.allclose(*same, atol=1e-12)
after_100 = kl(train(betas, 100, lr=1 / betas[:, None] ** 2))
assert (np.diff(after_100) < 0).all()  # the smaller β, the farther
adam_ratio = teach.predict("10 steps of Adam: KL at β = 0.01, over KL at β = 1", 0.1)

# %%
def train_by_adam(beta, steps, lr=0.01):
    adam = dn.adam(lr)
    params = {"u": np.zeros(5)}
    state = adam.init(params)
    for _ in range(steps):
        change, state = adam.update({"u": beta * slope(beta * params["u"])}, state, params)
        params = {"u": params["u"] + change["u"]}
    return params["u"]


adam_ratio.reveal(kl(train_by_adam(0.01, 10)) / kl(train_by_adam(1.0, 10)), because="Its first "
                  "steps are about lr, whatever the gradient's size: it hardly knows its β.")

# %% [markdown]
# ## Where there is no end
#
# One pair of answers, the only two, always judged alike: then no $\beta$ has an optimum. In a table the gap
# $h = u_w - u_l$ moves by $2\beta\,\sigma(-\beta h)$ a unit of time (learning rate times steps), without end.
# Suppose that the reference gives the chosen answer 0.3, and that $\beta = 2$, twenty times the usual 0.1.

# %%
certain = teach.predict("π(chosen) in the end, at β = 2", 0.6)

# %%
def descend(slope_of_gap, steps=20000, lr=0.02):
    h = np.zeros(steps + 1)
    for k in range(steps):
        h[k + 1] = h[k] - lr * 2 * slope_of_gap(h[k])  # chosen up, rejected down: twice the slope
    return h


t = 0.02 * np.arange(20001)
gaps = {beta: descend(lambda h, beta=beta: -beta * sigmoid(-beta * h)) for beta in (0.1, 0.5, 2.0)}
for beta, h in gaps.items():
    assert np.abs(beta * h - flow.dpo_margin(t, beta)).max() < 0.02  # m + e^m = 1 + 2β²t
limit = sigmoid(flow.dpo_margin(1e30, 2.0) / 2 + np.log(0.3 / 0.7))
certain.reveal(round(limit, 6), because="The gap grows like log(1 + 2β²t)/β, without end. A large "
               "β speeds it up early and slows it down late; it does not hold it.")

# %% [markdown]
# **IPO** has a letter that is one knob: its loss $(h - 1/2\tau)^2$ pulls the gap of such a pair to
# $1/(2\tau)$, and stops there, at the same pace for every $\tau$.

# %%
ipo = {tau: descend(lambda h, tau=tau: 2 * (h - 1 / (2 * tau))) for tau in (0.25, 1.0)}
assert np.allclose(ipo[0.25] * 0.25, ipo[1.0] * 1.0)  # one path, one pace: τ is the scale alone
figure, axis = plt.subplots(figsize=(8, 3.8))
pink = figures.POLICY
lines = [("DPO, β = 0.1", gaps[0.1], pink, "-", (13, 0.53)),
         ("β = 0.5", gaps[0.5], pink, "-.", (3, 0.92)),
         ("β = 2", gaps[2.0], pink, "--", (90, 0.86)),
         ("IPO, τ = 1", ipo[1.0], "black", "--", (60, 0.37)),
         ("IPO, τ = 0.25", ipo[0.25], "black", "-", (60, 0.7))]
for name, h, color, style, at in lines:
    axis.semilogx(t[1:], sigmoid(h[1:] + np.log(0.3 / 0.7)), style, color=color)
    axis.text(*at, name, color=color)
axis.axhline(0.3, color=figures.REFERENCE, lw=1)
axis.text(0.021, 0.24, "reference", color=figures.REFERENCE)
axis.set(xlabel="time: learning rate × steps", ylabel="π(chosen)", ylim=(0.2, 1.03));

# %% [markdown]
# ## What to do
#
# - Comparing several $\beta$ at one learning rate and so many steps compares clocks. Scale the rate of plain
#   descent by $1/\beta^2$, or train until nothing moves.
# - Report the KL that was reached beside the $\beta$ that was set.
# - Where labels are certain, what you report as the effect of $\beta$ is when you stopped. IPO stops by
#   itself, and so does DPO with smoothed labels (cDPO).
#
# ## Exercises
#
# The answers below are wrong on purpose.

# %%
exercise = teach.exercise("beta_same_path")
exercise.check(2.0)

# %%
exercise = teach.exercise("beta_certain_time")


def time_until(m, beta):
    return (m + np.exp(m) - 1) / beta**2


exercise.check(time_until)

# %% [markdown]
# **Next:** [07 · winning is not likelier](07_winning_not_likelier.ipynb): which of the two answers moves.
# More: [beta_two_knobs](../toy_models/experiments/beta_two_knobs.py),
# [certain_labels](../toy_models/experiments/certain_labels.py), and [what people say](../MYTHS.md) about β.
