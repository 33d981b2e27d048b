"""Writes docs/faq.md: what people keep asking of DPO, each answered in a hundred words, with one number and one link.

    python docs/faq.py

The number of an answer stands in bold and is computed here, by the function above its text. All other digits stand in
code spans: settings, formulas and names. Digits are as many as survive another CPU.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import dpo_numpy as dn
from analytic import finite_data, flow, graph, metrics, minimizers, ngram, optimum, population
from dpo_numpy.conformance.frameworks import DTYPES
from dpo_numpy.estimates import kl_baseline
from dpo_numpy.minimal import dpo_loss

PAGE = Path(__file__).with_suffix(".md")
GLUE = "\0"  # stands for a space at which no line may break

HEAD = """# Questions

What people keep asking of DPO, in the order in which one learns it. Each answer has one number, in bold, which is
computed when this page is written, and one link, to what shows it. Log-probs are in nats; `r` is the reward that the
labels follow, `π_ref` the reference, `π* = π_ref e^(r/β)/Z` the optimum of `J = E r - β KL(π || π_ref)`, a log-ratio is
`log π/π_ref`, a margin `β` times the log-ratio of the chosen less that of the rejected. The pair of the README has
log-probs -2.1 and -4.5, the reference's are -3.0 and -3.2, and β = 0.1. Made by `python docs/faq.py`.
"""

PAIR = np.array([[-2.1, -4.5]]), np.array([[-3.0, -3.2]])  # of the README
REWARD, FLAT = np.array([1.0, 0.0, -1.0]), np.full(3, 1 / 3)


class Answer(NamedTuple):
    """text: its one format field is `number()`; the link is relative to docs/"""

    question: str
    number: Callable[[], float]
    text: str
    shown: str
    link: str

    def body(self) -> str:
        """In lines of at most 120 columns; no code span is broken, whose rest might begin a line like a list"""
        text = " ".join(self.text.format(self.number()).split()) + f" [{self.shown}]({self.link})"
        whole = re.sub(r"`[^`]*`|\[.*\)", lambda unit: unit[0].replace(" ", GLUE), text)
        lines = textwrap.wrap(whole, width=120, break_long_words=False, break_on_hyphens=False)
        return "\n".join(lines).replace(GLUE, " ")


def page() -> str:
    return HEAD + "".join(f"\n## {answer.question}\n\n{answer.body()}\n" for answer in ANSWERS)


# ---- numbers

def memory_ratio() -> float:
    return dn.memory("ppo", 7e9).state / dn.memory("dpo", 7e9).state


def implicit_margin() -> float:
    return dn.preference_metrics(*PAIR, beta=0.1)["rewards/margins"]


def loss_of_the_pair() -> float:
    (chosen, rejected), (ref_chosen, ref_rejected) = (row[0] for row in PAIR)
    return float(dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.1)[0])


def what_rewards_lack() -> float:
    """β log Z: what r has beyond β log π*/π_ref, the same for every response"""
    lacks = REWARD - optimum.implied_reward(optimum.boltzmann(FLAT, REWARD, 0.5), FLAT, 0.5)
    return float(lacks.mean())


def ratio_kept() -> float:
    best = optimum.boltzmann([0.6, 0.1, 0.3], [1.0, 1.0, 0.0], 0.1)
    return float(best[0] / best[1])


def curvature_ratio() -> float:
    def slowest(beta: float) -> float:
        wins = population.bradley_terry_wins(REWARD)
        return population.linear_rate(population.hessian(REWARD / beta, wins, beta)).slowest

    return slowest(1.0) / slowest(0.25)


def gradient_at_the_start() -> float:
    return float(dpo_loss(-3.0, -3.2, -3.0, -3.2, 0.1)[2])


def reward_by_rounding() -> float:
    return float(0.1 * DTYPES["bfloat16"].ulp(-300.0) / 2)


def accuracy_at_the_start() -> float:
    return dn.preference_metrics(PAIR[1], PAIR[1], beta=0.1)["rewards/accuracies"]


def falling_below() -> float:
    return float(metrics.crossover(metrics.pairs(FLAT, REWARD).chosen, FLAT, REWARD))


def margin_of_means() -> float:
    loss = dn.LOSSES["ln_dpo"](beta=0.1)(PAIR[0], ref_logp=PAIR[1], length=[[3, 5]])[0][0]
    return float(-np.log(np.expm1(loss)) / implicit_margin())


def critical_beta() -> float:
    ref = [[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]]  # rows: begin, a, b; columns: end, a, b
    return ngram.critical_beta(np.array(ref), np.array([[0.0, 1.0, 1.0]] * 3))


def underflow() -> float:
    smallest = float(np.finfo(np.float16).smallest_subnormal)
    return float(-np.log(smallest / 2))


def gain_of_parts() -> float:
    """Of four responses the first two are compared, and the last two"""
    reward, ref = np.array([3.0, 2.0, 1.0, 0.0]), np.full(4, 1 / 4)
    wins = population.bradley_terry_wins(reward, np.kron(np.eye(2), np.ones((2, 2))))
    end = optimum.boltzmann(ref, graph.settled_reward(reward, wins), 1.0)
    reached, best = optimum.value(end, ref, reward, 1.0), optimum.optimal_value(ref, reward, 1.0)
    return float((reached - reward.mean()) / (best - reward.mean()))


def labels_needed(mu: tuple[float, ...] = (0.01, 0.495, 0.495)) -> float:
    """For the same regret, over those of uniform pairs; the regret of n labels is as 1/n, n large"""
    met, uniform = (population.bradley_terry_wins(REWARD, weight) for weight in (population.drawn_pairs(mu), None))
    return float(finite_data.regret(FLAT, met, 0.5, 1) / finite_data.regret(FLAT, uniform, 0.5, 1))


def margin_smoothed() -> float:
    told = 0.9 * 0.7 + 0.1 * 0.3
    return float(minimizers.cdpo_margin(told, 0.1) / minimizers.rdpo_margin(told, 0.1))


def where_ipo_stops() -> float:
    return float(flow.ipo_gap(1e3, tau=0.1))


def disliked_under_kto() -> float:
    return float(minimizers.kto([0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.8, 0.7, 0.4], beta=0.5)[2])


def kl_under_the_clamp() -> float:
    best = optimum.boltzmann(FLAT, REWARD, 0.5)
    if kl_baseline(np.log(best / FLAT), FLAT) != 0:
        raise ValueError("the estimate from responses of the reference is not 0; expected what the page says")
    return float(optimum.kl(best, FLAT))


def grpo_gradient() -> float:
    """Of two answers of one token, one right and one wrong, on policy"""
    advantage = dn.group_advantage([[1.0, 0.0]], ddof=0, eps=1e-9)
    logp = np.log([[[0.5], [0.5]]])
    value, grad = dn.SURROGATES["grpo"](beta=0.0)(logp, old_token_logp=logp, mask=np.ones((1, 2, 1), bool),
                                                  advantage=advantage)
    if value[0] != 0:
        raise ValueError(f"the loss on policy is {value[0]}; expected 0, as the page says")
    return float(grad[0, 1, 0])


def cost_of_a_cure() -> float:
    """Two responses, p = 0.7, β = 0.5: the regret of rDPO, told ε where no label is flipped, over J* - J_ref"""
    ref, beta = np.full(2, 1 / 2), 0.5
    reward = np.array([np.log(0.7 / 0.3), 0.0])
    cured = population.policy(np.array([minimizers.rdpo_margin(0.7, 0.1), 0.0]) / beta, ref)
    best = optimum.boltzmann(ref, reward, beta)
    return float(optimum.kl(cured, best) / optimum.kl(ref, best))


# ---- questions, as one learns

ANSWERS: tuple[Answer, ...] = (
    Answer(
        "What differs between DPO and PPO?",
        memory_ratio,
        """Not the goal: told one reward, in a class that holds `π*`, both end at `π*`. The work differs. PPO draws
        responses from the policy, scores them by a reward model and trains a value model beside the policy: four
        models, two of them trained. DPO draws nothing: it is logistic regression on pairs that are given, with a policy
        and a frozen reference. In mixed-precision training by Adam, models of one size, PPO holds **{:.0f}** times the
        bytes. What PPO gets for them is new: rewards of responses that are in no pair.""",
        "Each road, measured", "roads.md",
    ),
    Answer(
        "Why is there no explicit reward model?",
        implicit_margin,
        """The policy is one. Solve `π* = π_ref e^(r/β)/Z` for the reward: `r = β log π*/π_ref + β log Z`. The last term
        depends on the prompt alone, so of two responses to one prompt the rewards differ by `β` times the difference of
        log-ratios, the margin. Training by the DPO loss fits this implicit reward to the labels, as a reward model is
        fitted, and the policy that is best for it needs no search: it is the policy at hand. The README's pair has a
        margin of **{:.2f}**, from four log-probs.""",
        "`preference_metrics`", "../dpo_numpy/metrics.py",
    ),
    Answer(
        "How does Bradley-Terry lead to the loss?",
        loss_of_the_pair,
        """Bradley-Terry says that `y_w` wins against `y_l` with probability `σ(r_w - r_l)`, `σ(z) = 1/(1 + e^-z)`. Put
        `r = β log π/π_ref + β log Z` in. Both responses share the prompt, so `β log Z` cancels, and the probability of
        the label is `σ(margin)`. Maximum likelihood minimizes its negative logarithm, `-log σ(margin)`: the DPO loss,
        which is **{:.3f}** for the README's pair. On endless labels that follow Bradley-Terry, in a class that holds
        `π*`, with comparisons that connect all responses, `π*` is its only minimum.""",
        "Bradley-Terry, from votes to the loss", "../notebooks/05_bradley_terry.ipynb",
    ),
    Answer(
        "Is the reference's partition function ever needed?",
        what_rewards_lack,
        """Not in training. `Z = E_ref e^(r/β)` depends on the prompt alone, and both responses of a pair have one
        prompt: `Z` is in neither loss nor gradient, and `r + c(x)` has the same `π*` as `r`. That is no approximation.
        `Z` is needed to say how large a reward is, or to compare responses to different prompts: `β log π*/π_ref` is
        `r` less `β log Z`, which is also `J` at `π*`. For `r = (1, 0, -1)`, a uniform reference and `β = 0.5` it is
        **{:.3f}**, the same for all responses.""",
        "`z_cancels`", "../toy_models/experiments/z_cancels.py",
    ),
    Answer(
        "Do I need SFT first, and why a reference?",
        ratio_kept,
        """The reference is half of the answer: `π* = π_ref e^(r/β)/Z`. Where it is zero, `π*` is zero, and responses of
        equal reward keep its ratio at every `β`: for `π_ref = (0.6, 0.1, 0.3)` and `r = (1, 1, 0)` the first stays
        **{:.0f}** times as likely as the second. What the labels are indifferent to comes from the reference. The loss
        does not ask for SFT; it asks for a reference that gives good responses some probability, and SFT makes one.
        Losses without a reference (SimPO, ORPO, CPO) have other optima, which do not know these ratios.""",
        "`optimum.boltzmann`", "../analytic/optimum.py",
    ),
    Answer(
        "What does β control, and which way?",
        curvature_ratio,
        """Two things. Where one ends: `π* = π_ref e^(r/β)/Z`, so a larger `β` ends nearer to the reference;
        `KL(π* || π_ref)` falls as `β` rises, unless all rewards are equal. How fast one gets there: the curvature at
        `π*` is as `β²`: at a quarter of `β` it is **{:.0f}** times smaller, and plain descent with small steps of one
        size takes as many times the steps. A small `β` ends far away and goes slowly: stopped early it has moved less.
        Steps of `η/β²` undo the second effect.""",
        "β, two knobs in one letter", "../notebooks/06_beta.ipynb",
    ),
    Answer(
        "Why is the loss log 2 at the start, and when does it stick to 0.693?",
        gradient_at_the_start,
        """Where the policy is the reference all margins are zero, and `-log σ(0) = log 2`. The gradient is not zero:
        `β/2` a log-prob, **{:.2f}** at `β = 0.1`. If the loss stays: the reference is not frozen, or is the same
        object; nothing is trainable, or the optimizer holds other parameters; truncation made both responses equal; the
        mask holds no response token; the learning rate is that of another `β`; half precision swallows the steps. Or
        the labels are coin flips: then `log 2` is the least expected loss.""",
        "The gradient, weight by weight", "../notebooks/03_gradient.ipynb",
    ),
    Answer(
        "Why are my rewards not 0 at step 0?",
        reward_by_rounding,
        """A policy that is the reference has log-ratios of exactly zero, if both log-probs are computed alike. So they
        are not: dropout is on in one of them; one runs in another dtype, kernel, padding or batch; stored reference
        log-probs had another mask, template or truncation; the reference is another checkpoint; an adapter does not
        start at zero. Rounding alone suffices: `log π` near `-300 nats`, rounded to `bfloat16`, is off by up to as much
        as makes a reward of **{:.1f}** at `β = 0.1`. Sum in `float32`, and compare two passes of one model.""",
        "`dn.verify`", "verify.md",
    ),
    Answer(
        "Why is accuracy 0 or 1 at once, or 0 at the start?",
        accuracy_at_the_start,
        """Accuracy is the share of pairs whose margin is above zero. A tie counts as zero, not a half: where the policy
        is the reference all pairs tie, and accuracy is **{:.0f}**. Of a single pair it is zero or one. It sees the sign
        alone: a margin of `m = 1e-9` counts in full, so that one small step on that pair makes it one. Read it on
        held-out pairs, beside the mean margin. At `π*` it is below one where labels are uncertain: a pair's best
        accuracy is the probability of its likelier label.""",
        "Ranking accuracy", "exact.md#ranking-accuracy-is-not-what-dpo-optimizes",
    ),
    Answer(
        "Why do the log-probs of the chosen responses fall?",
        falling_below,
        """The loss sees the gap alone, and both log-ratios may fall while it grows. It happens at the exact optimum
        too. Let pairs be two draws from the reference. At `π*` the chosen have a mean log-ratio of
        `(E r(chosen) - J(π*))/β`. It is negative for every `β` below a crossover, **{:.3f}** for `r = (1, 0, -1)` and a
        uniform reference: the mass goes to the best responses, and a chosen one need only be better than one other. An
        added likelihood term lifts the chosen, and moves the optimum off `π*`.""",
        "Winning, not likelier", "../notebooks/07_winning_not_likelier.ipynb",
    ),
    Answer(
        "Sum or mean over tokens, and where is the length normalization?",
        margin_of_means,
        """A sum: `log π(y|x)` is the sum over the tokens of the response and its end token, not those of the prompt.
        DPO has no length normalization. The mean per token makes another loss, LN-DPO, with another optimum,
        `π_ref e^(|y|(r/β + c))`; with `|y_w| = 3` and `|y_l| = 5` it leaves the README's pair **{:.3f}** of its margin,
        so that a `β` tuned for one is wrong for the other. SimPO has means, IPO sums in its paper and means in several
        libraries. The mean over pairs only scales the step.""",
        "Each library's choice", "../CONVENTIONS.md#from-a-batch-to-a-number",
    ),
    Answer(
        "Why are outputs long and repetitive?",
        critical_beta,
        """Where labels pay `λ` a token, long strings weigh `(ρ e^(λ/β))^|y|` in `π*`, `ρ` being the reference's rate of
        going on. At or below `β = λ/(-log ρ)`, **{:.3f}** for a bigram with `λ = 1`, there is no optimum; towards it
        the mean length grows without bound. A string of more tokens than contexts repeats a context. R-DPO with `α = λ`
        cures it exactly; division by length and a larger `β` do not. Count the end token: a response cut off says
        nothing about ending.""",
        "Length", "../notebooks/08_length.ipynb",
    ),
    Answer(
        "Why NaN or 0 in fp16 or bf16?",
        underflow,
        """In `float16` a response less likely than `e^-x`, `x` = **{:.1f}** nats, has probability zero: its logarithm
        is `-inf`, and the difference of two of them is NaN. So never leave log-probs. `bfloat16` has the range of
        `float32` and a coarse grid: small margins of long sums become zero, and small updates of weights are lost
        without a master copy. Take log-softmax, sums and loss in `float32`. Write the loss as `logaddexp(0, -z)`: where
        `z` is very negative, `log(1 + exp(-z))` overflows and `log(sigmoid(z))` is `-inf`. A response without tokens
        gives NaN where a mean is taken.""",
        "`numerics`", "../dpo_numpy/numerics.py",
    ),
    Answer(
        "When does DPO fail, and when does PPO win?",
        gain_of_parts,
        """DPO fails where comparisons leave responses unconnected, the class misses `π*`, no reward explains the
        labels, or labels are few. Of rewards `r = (3, 2, 1, 0)` compare only the first two and the last two; `β = 1`,
        the reference uniform. Descent in a table reaches **{:.3f}** of what `J` could gain; a policy gradient that is
        told `r` reaches all. PPO wins by what it is told: a rule that checks answers, or a reward model that is right
        beyond the pairs. Told a table of rewards fitted to these pairs, it ends where DPO does.""",
        "`comparison_graph`", "../toy_models/experiments/comparison_graph.py",
    ),
    Answer(
        "Does DPO need on-policy data?",
        labels_needed,
        """No. Endless labels of a reward, a class that holds `π*`, connected comparisons: then the minimum is `π*`,
        whichever pairs are met. The pairs decide how many labels that takes: for `r = (1, 0, -1)`, `β = 0.5` and a
        uniform reference, pairs drawn from `μ = (0.01, 0.495, 0.495)`, which seldom hold the best response, need
        **{:.0f}** times the labels of uniform pairs for the same small regret; those from `μ = (0.98, 0.01, 0.01)` need
        fewer than uniform ones. Where the class misses `π*`, the pairs decide on the end too.""",
        "Distribution shift", "../notebooks/09_distribution_shift.ipynb",
    ),
    Answer(
        "Label smoothing: cDPO or rDPO?",
        margin_smoothed,
        """They do opposite things. cDPO of clean labels is DPO of labels flipped with probability `ε`: it shrinks
        margins, and stops at `logit(1 - ε)` where labels are certain. rDPO takes known flips out: on flipped labels its
        expected loss is DPO's on clean ones. Of two responses with `p = 0.7` and flips with `ε = 0.1`, rDPO finds the
        true margin, DPO less, and cDPO keeps **{:.3f}** of it. rDPO has more variance, and no minimum where labels are
        surer than `1 - ε`. For certain labels cDPO, for flips at a known rate rDPO.""",
        "`noise`", "../toy_models/experiments/noise.py",
    ),
    Answer(
        "How does IPO's τ compare with β?",
        where_ipo_stops,
        """Both weigh the KL, and a smaller one ends farther away. They price different things: DPO's goal is the
        reward, IPO's the probability of winning, which is bounded. Of two responses, the first winning with probability
        `p`, DPO's log-ratios come to differ by `logit(p)/β`, IPO's by `(2p - 1)/(2τ)`. At `p = 1` DPO's gap grows
        without end, and IPO's stops at `1/(2τ)`: **{:.0f}** nats for `τ = 0.1`. Near `p = 1/2` both agree if `τ = β/4`.
        A number tuned for one is wrong for the other, though libraries name both `beta`.""",
        "`certain_labels`", "../toy_models/experiments/certain_labels.py",
    ),
    Answer(
        "Can DPO be run without pairs?",
        disliked_under_kto,
        """Not as it is: its margin is that of two responses to one prompt. Good and bad answers to one prompt, or
        scores, make pairs; rankings have `pl_dpo`. Single labels have KTO and BCO, whose optima are others. KTO's, with
        `λ_D = λ_U` and `z0 = 0`, drops what is desired less often than not, if another response is desired more often:
        at `q = (0.8, 0.7, 0.4)`, `μ = π_ref = (0.4, 0.4, 0.2)` and `β = 0.5` the third ends at probability **{:.0f}**.
        DPO's optimum leaves something to every response whose reward is finite.""",
        "`minimizers.kto`", "../analytic/minimizers.py",
    ),
    Answer(
        "Why is KTO's KL always 0?",
        kl_under_the_clamp,
        """It is an estimate, cut: `max(0, mean of log π/π_ref)` over mismatched responses. At the start each log-ratio
        is zero. Later the responses still come from data, not from the policy. Drawn from the reference, they have an
        expected log-ratio of `-KL(π_ref || π)`, never above zero, and the cut returns zero wherever the policy goes: at
        `π*` of `r = (1, 0, -1)`, `β = 0.5` and a uniform reference the true KL is **{:.3f}**. KTO then is
        `apo_zero_unpaired`. The mean is cut, not each log-ratio. Only samples of the policy estimate its KL.""",
        "`kl_baseline`", "../dpo_numpy/estimates.py",
    ),
    Answer(
        "Why does GRPO's loss start at 0 and stay there; is that the KL?",
        grpo_gradient,
        """On policy every ratio is one and a group's advantages sum to zero, so that the clipped term is zero, if each
        response weighs the same. What is left is the penalty, `β` times the estimate `k3` of the KL, zero at the start:
        the logged loss is that, yes. Not so the gradient: of a right and a wrong answer, one token each, `A = (1, -1)`,
        it is **{:.1f}** a log-prob, at a loss of zero. Watch the reward, not the loss. Where a group's rewards are all
        equal, the gradient of that term is zero too.""",
        "`SURROGATES`", "../dpo_numpy/surrogates.py",
    ),
    Answer(
        "Which loss should I pick?",
        cost_of_a_cure,
        """DPO, until you can name what is wrong: with endless clean labels of connected pairs, in a class that holds
        `π*`, its minimum is `π*`. Flips at a known rate: rDPO. Labels that pay `α` a token: R-DPO. Labels always the
        same: IPO or cDPO. Single labels: KTO or BCO. A reward you can compute: a policy gradient. A cure without the
        disease costs: of two equally likely responses, `p = 0.7`, `β = 0.5`, no label flipped, rDPO told `ε = 0.1`
        loses **{:.1%}** of DPO's gain. No loss knows responses that are in no pair.""",
        "The table", "bug_by_variant.md",
    ),
)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
