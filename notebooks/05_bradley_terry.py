# %% [markdown]
# # 05 · Bradley-Terry, under every preference
#
# **Claim: DPO on a table of answers, trained to its optimum, is exactly the fit that Zermelo published in 1929
# for chess tournaments, with $\beta\log(\pi/\pi^{ref})$ for a player's strength.** A baseball season shows
# what such a fit knows, when there is none, and where a bias goes.

# %%
import matplotlib.pyplot as plt
import numpy as np

from analytic import bradley_terry, graph, population, vote_model
from dpo_numpy import figures, minimal, teach

plt.style.use(figures.STYLE)

# %% [markdown]
# ## A season
#
# The games of seven teams of the American League's Eastern division in 1987: Agresti, *Categorical Data
# Analysis*, 2nd edition 2002, page 438. Rows are home teams: Milwaukee, at home, won 4 games against Detroit
# and lost 3. Read *answer* for team, *judgement* for game, and it is a preference data set.

# %%
teams = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
games = """
0-0 4-3 4-2 4-3 6-1 4-2 6-0
3-3 0-0 4-2 4-3 6-0 6-1 4-3
2-5 4-3 0-0 2-4 4-3 4-2 6-0
3-3 5-1 2-5 0-0 4-3 4-2 6-1
5-1 2-5 3-3 4-2 0-0 5-2 6-0
2-5 3-3 3-4 4-3 4-2 0-0 2-4
2-5 1-5 1-6 2-4 1-6 3-4 0-0"""
home = np.array([[game.split("-") for game in row.split()] for row in games.split("\n")[1:]], float)
wins = home[..., 0] + home[..., 1].T  # wins[i, j]: how often i beat j, at home or away
assert (wins + wins.T == 13 * (1 - np.eye(7))).all()
for team, row in zip(teams, wins, strict=True):
    print(f"{team:<10}", *(f"{n:3.0f}" for n in row), f"  {row.sum():3.0f} wins of 78")

# %% [markdown]
# ## The equation
#
# Each team has a strength $s$, and only differences count:
#
# $$P(i \text{ beats } j) = \sigma(s_i - s_j) = \frac{1}{1 + e^{-(s_i - s_j)}}.$$
#
# Strengths are in nats, natural units of log-odds. The fit makes the results likeliest. The slope of the
# log-likelihood in $s_i$ is pleasant: the games that $i$ won less those that it should have,
#
# $$\frac{\partial \log L}{\partial s_i} = \sum_j \bigl[\text{wins}_{ij} - n_{ij}\,\sigma(s_i - s_j)\bigr],$$
#
# so that at the fit every team is expected to win as often as it did. Boston beat Detroit in 2 of 13 games,
# and won 40 of its 78.

# %%
boston = teach.predict("the probability that Boston beats Detroit, says the fit", 0.2)

# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def ascend(wins, steps, rate=0.05):
    s, path = np.zeros(len(wins)), []
    for _ in range(steps):
        s = s + rate * (wins - (wins + wins.T) * sigmoid(s[:, None] - s)).sum(axis=1)
        path.append(s)
    return np.array(path)


s = ascend(wins, 300)[-1]
assert np.allclose(s, bradley_terry.fit(wins), atol=1e-9)
assert (s - s[-1]).round(2).tolist() == [1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0]  # his Table 10.11
others = [f"{wins[team].sum() - wins[team, rival]:.0f}" for team, rival in ((4, 1), (1, 4))]
boston.reveal(sigmoid(s[4] - s[1]), because="One number has to do for all games of a team, and of "
              f"its 65 others Boston won {others[0]}, Detroit {others[1]}.")

# %%
low, high = bradley_terry.intervals(s, bradley_terry.fisher(s, wins + wins.T))
order = np.argsort(s)
assert (order == np.argsort(wins.sum(axis=1))).all()  # all pairs met as often: ranked by wins
figure, axis = plt.subplots(figsize=(7, 3))
axis.errorbar(s[order], range(7), xerr=(high - s)[order], fmt="o", color="black")
for row, team in enumerate(order):
    axis.text(high[team] + 0.03, row, f"{wins[team].sum():.0f} wins", va="center")
axis.set(yticks=range(7), yticklabels=[teams[team] for team in order],
         xlabel="strength in nats, 95% intervals; the mean is 0");

# %% [markdown]
# ## The same likelihood by its other names
#
# It is a **logistic regression** without intercept: a row a game, +1 for one team, -1 for the other. And it
# is the **DPO loss**, $-\log\sigma$ of a difference, where the strength of an answer is the implicit reward
# $s = \beta\log(\pi/\pi^{ref})$. So train DPO on these games, seven answers and a uniform reference, to the
# end:

# %%
better = teach.predict("which β fits the games better?", "0.1", among=["0.1", "1", "neither"])

# %%
winner, loser = np.nonzero(wins)
for beta in (0.1, 1.0):
    u = population.newton(wins, beta)  # the log-ratios at which DPO comes to rest
    assert np.allclose(beta * u, s, atol=1e-9)
    losses, _, _ = minimal.dpo_loss(u[winner], u[loser], 0.0, 0.0, beta)
    pi = np.exp(u) / np.exp(u).sum()
    print(f"β = {beta}: loss {wins[winner, loser] @ losses / wins.sum():.4f} nats a game, "
          f"π(Milwaukee) = {pi[0]:.2f}, π(Baltimore) = {pi[-1]:.2g}")
better.reveal("neither", because="β log(π/π_ref) is s at every β. What is learned from the labels "
              "does not depend on β; how far the policy goes for it does: notebook 06.")

# %% [markdown]
# What no game can tell: add 1 to every strength, and nothing changes. Rewards have no zero, and those of
# different prompts, which never meet, cannot be compared.
#
# ## Who never lost
#
# Strike out Milwaukee's losses. It has won all 50 of its games; how strong is it?

# %%
unbeaten = wins.copy()
unbeaten[:, 0] = 0
strong = teach.predict("the fitted strength of a team that never lost?", "large",
                       among=["as before", "large", "infinite"])

# %%
assert graph.mle_exists(wins) and not graph.mle_exists(unbeaten)
try:
    bradley_terry.fit(unbeaten)
except ValueError as error:
    print(error)
strong.reveal("infinite", because="Every rise makes its wins likelier, and no loss says stop. "
              "There is no fit: what gets reported is where somebody stopped.")

# %%
figure, axis = plt.subplots(figsize=(7, 3))
for results, name, style in ((unbeaten, "its losses struck out", "-"), (wins, "as played", "--")):
    path = ascend(results, 3000)[:, 0]
    axis.semilogx(np.arange(1, len(path) + 1), path, style, color="black")
    axis.text(len(path) * 1.1, path[-1], name, va="center")
    rise = path[-1] - path[len(path) // 10]
    assert abs(rise - (np.log(10) * 6 / 7 if results is unbeaten else 0)) < 0.01  # six fall behind
axis.set(xlabel="steps of ascent", ylabel="Milwaukee, nats over the mean", xlim=(1, 40000));

# %% [markdown]
# In general (Zermelo 1929, Ford 1957): there is one fit, and, but for a constant, only one, exactly if every
# team has **lost to every other, directly or through others**: wins lead in a circle from each to each.
# Preference data seldom fulfil it. Where each answer is in one pair, judged once, no chosen answer has ever
# lost, and DPO's margin in a table has no end, at any $\beta$: it goes on like the logarithm of the steps.
#
# ## Home advantage, and where a bias goes
#
# Home teams won 154 of the 273 games. Give the home team $\gamma$ nats on top:
# $P = \sigma(s_i - s_j + \gamma)$. In the regression that is one more column, of ones.

# %%
advantage = teach.predict("γ in nats; the log-odds of 154 to 119 are 0.26", 0.26)

# %%
at, away = np.nonzero(1 - np.eye(7))  # a row for each pair of home team and guest
X = np.eye(7)[at] - np.eye(7)[away]
X = np.column_stack([X[:, :-1], np.ones(len(at))])  # Baltimore is 0: only differences count


def regress(X, won, lost):
    w = np.zeros(X.shape[1])
    for _ in range(20):  # Newton's method
        p = sigmoid(X @ w)
        bend = X.T @ (((won + lost) * p * (1 - p))[:, None] * X)
        w = w + np.linalg.solve(bend, X.T @ (won - (won + lost) * p))
    return w


won, lost = home[at, away].T
assert (won.sum(), lost.sum()) == (154, 119)
w = regress(X, won, lost)
share = np.exp(np.append(w[:6], 0)) / np.exp(np.append(w[:6], 0)).sum()
assert share.round(3).tolist() == [0.220, 0.190, 0.164, 0.157, 0.137, 0.088, 0.044]  # his
advantage.reveal(w[-1], because="Between unequal teams the same γ turns fewer games than between "
                 "equals, so that the average over all games understates it.")

# %% [markdown]
# Leaving $\gamma$ out did little harm above, since each team played about half of its games at home. But let
# Milwaukee be the host of *all* its games, with the results that this fit expects:

# %%
assert np.abs(w[:6] - (s - s[-1])[:6]).max() < 0.04  # little harm
n = np.where(at == 0, 13.0, np.where(away == 0, 0.0, 6.5))
p = sigmoid(X @ w)
blind, told = regress(X[:, :-1], n * p, n * (1 - p)), regress(X, n * p, n * (1 - p))
assert np.allclose(told, w, atol=1e-9)
print(f"Milwaukee over Baltimore: {w[0]:.2f} nats")
print(f"fitted without γ {blind[0]:.2f}, with γ {told[0]:.2f}")

# %% [markdown]
# A cause that has no column, and is not spread evenly, goes into the strengths. In preference data the
# home team is the answer that is shown first, or the longer one. If judges favor length and nobody tells the
# reward model, it pays for length; if they favor the first, for whose answers were shown first more often.
#
# ## Ties, and the same judge twice
#
# **Ties** need one number more (Davidson 1970): win, tie and loss are as $e^{d/2} : \nu : e^{-d/2}$, with $d$
# the difference, so that a preference, if there is one, is Bradley-Terry. **Votes that hang together** are
# fewer than they seem: let 10 judges vote 10 times each on one pair, each always alike.

# %%
tied = vote_model.fit([1, 1, 1, -1, 0, 0, 0, 0], [0] * 8, [1] * 8)  # 3 wins, 1 loss, 4 ties
assert np.allclose([2 * tied.strength[0], tied.tie], [np.log(3), 4 / np.sqrt(3)])  # d and ν

outcome, judge = np.repeat([1] * 7 + [-1] * 3, 10), np.repeat(range(10), 10)
pair = vote_model.fit(outcome, [0] * 100, [1] * 100)
naive, honest = (np.sqrt(4 * V[0, 0]) for V in (pair.covariance, vote_model.clustered(pair, judge)))
assert np.isclose(honest / naive, np.sqrt(10))
print(f"d = {2 * pair.strength[0]:.2f}, error {naive:.2f} as of 100 voices, {honest:.2f} as of 10")

# %% [markdown]
# ## Votes of people
#
# LLMFAO: people voted on answers of 59 language models, shown left and right. With its files in the folder
# that `DPO_NUMPY_DATA` names, the next cell fits strengths, being on the left, and the difference of log
# lengths; votes on one pair count as one voice.

# %%
from toy_models.experiments import Skipped, human_votes

try:
    found = human_votes.run()
    print(f"{found['votes']:,} votes, {found['models']} models; nats, and half of a 95% interval:")
    print(f"left answer         {found['side'][0]:+.2f} ± {1.96 * found['side_error'][1, 0]:.2f}")
    print(f"nat of log length   {found['length_effect']:+.2f} ± {1.96 * found['length_error']:.2f}")
except Skipped:
    print("No votes here; where they are, this says how people favor the left answer, and length.")

# %% [markdown]
# Left answers have their home advantage: [docs/real-preferences.md](../docs/real-preferences.md) has the
# numbers.
#
# ## Exercises
#
# The answers below are wrong on purpose.

# %%
exercise = teach.exercise("bt_slope")


def slope(s, wins):
    return (wins * sigmoid(s - s[:, None])).sum(axis=1)


exercise.check(slope)

# %%
exercise = teach.exercise("bt_has_fit")


def has_fit(wins):
    return "yes" if wins.any(axis=0).all() and wins.any(axis=1).all() else "no"


exercise.check(has_fit)

# %% [markdown]
# **Next:** [06 · beta](06_beta.ipynb): what $\beta$ does, since it does not fit the labels. More: graphs of
# comparisons in [comparison_graph](../toy_models/experiments/comparison_graph.py), certain labels in
# [certain_labels](../toy_models/experiments/certain_labels.py), votes in
# [human_votes](../toy_models/experiments/human_votes.py).
