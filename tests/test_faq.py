"""docs/faq.md is what its script writes; each answer is short, with one number, from another oracle, and one link.

A number is a run of digits outside code spans and link targets. Each answer has exactly one, in bold. A code span holds
a formula, a setting or a name, so that each has a letter: no number hides there.
"""

import importlib.util
import re
import sys
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest

import dpo_numpy as dn
from analytic import finite_data, minimizers, optimum, population
from dpo_numpy.estimates import kl_baseline

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("faq", ROOT / "docs" / "faq.py")
faq = sys.modules["faq"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faq)

PAGE = faq.PAGE.read_text(encoding="utf-8")
ASKED = (
    "What differs between DPO and PPO?",
    "Why is there no explicit reward model?",
    "How does Bradley-Terry lead to the loss?",
    "Is the reference's partition function ever needed?",
    "Do I need SFT first, and why a reference?",
    "What does β control, and which way?",
    "Why is the loss log 2 at the start, and when does it stick to 0.693?",
    "Why are my rewards not 0 at step 0?",
    "Why is accuracy 0 or 1 at once, or 0 at the start?",
    "Why do the log-probs of the chosen responses fall?",
    "Sum or mean over tokens, and where is the length normalization?",
    "Why are outputs long and repetitive?",
    "Why NaN or 0 in fp16 or bf16?",
    "When does DPO fail, and when does PPO win?",
    "Does DPO need on-policy data?",
    "Label smoothing: cDPO or rDPO?",
    "How does IPO's τ compare with β?",
    "Can DPO be run without pairs?",
    "Why is KTO's KL always 0?",
    "Why does GRPO's loss start at 0 and stay there; is that the KL?",
    "Which loss should I pick?",
)


# ---- the page and its rules

def complaints(answer):
    """What is wrong with an answer as printed"""
    without_targets = re.sub(r"\]\([^)]*\)", "]", answer)
    prose = re.sub(r"`[^`]*`", "", without_targets)
    numbers = re.findall(r"\d+(?:[.,]\d+)*", prose)
    bold = re.findall(r"\*\*(\d+(?:\.\d+)?)%?\*\*", prose)
    if len(without_targets.split()) > 100:
        yield "words"
    if len(numbers) != 1 or bold != numbers:
        yield "number"
    if len(re.findall(r"\[[^]]*\]\([^)]*\)", answer)) != 1:
        yield "link"
    if not all(re.search(r"[^\W\d_]", span) for span in re.findall(r"`([^`]*)`", answer)):
        yield "code"


def slug(heading):
    """GitHub's name of a heading of plain words"""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def leads_somewhere(link):
    path, _, anchor = link.partition("#")
    target = ROOT / "docs" / path
    headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE) if anchor else []
    return target.is_file() and (not anchor or anchor in map(slug, headings))


def test_the_page_is_what_the_script_writes():
    assert faq.page() == PAGE
    assert [answer.question for answer in faq.ANSWERS] == [*ASKED]
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == [*ASKED]
    assert max(map(len, PAGE.splitlines())) <= 120


def test_its_head_tells_the_pair_that_is_computed_with():
    said = re.search(r"log-probs (\S+) and (\S+), the reference's are (\S+) and (\S+), and β = 0.1", PAGE)
    assert [float(x) for x in said.groups()] == [*np.ravel(faq.PAIR)]


@pytest.mark.parametrize("answer", faq.ANSWERS, ids=lambda answer: answer.number.__name__)
def test_answers_are_short_with_one_number_and_one_link(answer):
    assert [*complaints(answer.body())] == []
    assert not any(re.match(r"\s|[-+*#>] |\d+[.)] ", line) for line in answer.body().splitlines())  # a paragraph


@pytest.mark.parametrize(("answer", "wrong"), [
    ("**1** `a`" + " word" * 98 + " [a](b)", "words"), ("It is 2 [a](b)", "number"), ("It is so [a](b)", "number"),
    ("It is **2** of 3 [a](b)", "number"), ("It is **2** [a](b) and [c](d)", "link"), ("It is **2**", "link"),
    ("It is **2** of `3.5` [a](b)", "code"),
])
def test_the_rules_can_fail(answer, wrong):
    assert [*complaints(answer)] == [wrong]


def test_the_rules_can_pass():
    assert [*complaints("It is **2.5%** at `β = 0.1`" + " word" * 92 + " [a](b3.md#4)")] == []


@pytest.mark.parametrize("answer", faq.ANSWERS, ids=lambda answer: answer.number.__name__)
def test_links_lead_somewhere(answer):
    assert leads_somewhere(answer.link)


def test_the_rule_for_links_can_fail():
    assert leads_somewhere("exact.md") and leads_somewhere("exact.md#strings-and-what-is-shared")
    assert not leads_somewhere("exactly.md") and not leads_somewhere("exact.md#string-and-what-is-shared")


@pytest.mark.parametrize("answer", faq.ANSWERS, ids=lambda answer: answer.number.__name__)
def test_no_digit_hangs_on_the_cpu(answer):
    """A result that is off by a part in ten million prints the same"""
    field, number = re.search(r"\{(.*?)\}", answer.text)[0], answer.number()
    assert {field.format(number * (1 + shift)) for shift in (-1e-7, 0, 1e-7)} == {field.format(number)}


# ---- the numbers, by hand

def sigma(z):
    return 1 / (1 + mp.exp(-z))


def logit(p):
    return mp.log(mp.mpf(p) / (1 - mp.mpf(p)))


def boltzmann(ref, reward, beta):
    weight = [q * mp.exp(mp.mpf(r) / beta) for q, r in zip(ref, reward, strict=True)]
    return [w / mp.fsum(weight) for w in weight], mp.log(mp.fsum(weight))


def kl(p, q):
    return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q, strict=True))


def pair_margin():
    return mp.mpf("0.1") * ((mp.mpf("-2.1") + 3) - (mp.mpf("-4.5") + mp.mpf("3.2")))


def bytes_held():
    trained, frozen = 2 + 2 + 4 + 4 + 4, 2
    return mp.mpf(2 * trained + 2 * frozen) / (trained + frozen)


def curvatures():
    """β² Σ σ(m) σ(-m) (e_i - e_j)(e_i - e_j)ᵀ/3: the margins at π* are those of the rewards, at any β"""
    def slowest(beta):
        hessian = mp.zeros(3)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            edge = mp.matrix([int(k == i) - int(k == j) for k in range(3)])
            hessian += beta**2 * sigma(j - i) * sigma(i - j) / 3 * edge * edge.T
        return sorted(mp.eigsy(hessian, eigvals_only=True))[1]

    return slowest(mp.mpf(1)) / slowest(mp.mpf(1) / 4)


def crossover():
    """β log Z = E r(chosen), all nine ordered draws enumerated"""
    reward = (1, 0, -1)
    chosen = 2 * mp.fsum(r * sigma(r - other) for r in reward for other in reward) / 9
    return mp.findroot(lambda beta: beta * boltzmann([mp.mpf(1) / 3] * 3, reward, beta)[1] - chosen, 1)


def largest_eigenvalue():
    """ρ of [[0.4, 0.3], [0.2, 0.4]]: the root of (0.4 - ρ)² = 0.06"""
    return -1 / mp.log(mp.mpf("0.4") + mp.sqrt(mp.mpf("0.06")))


def parts():
    """The mean log-probability of each half stays: π is proportional to e^½, e^-½, e^½, e^-½"""
    flat, reward = [mp.mpf(1) / 4] * 4, (3, 2, 1, 0)
    pi, _ = boltzmann(flat, (mp.mpf(1) / 2, -mp.mpf(1) / 2) * 2, 1)
    value = mp.fsum(p * r for p, r in zip(pi, reward, strict=True)) - kl(pi, flat)
    return (value - mp.mpf(3) / 2) / (boltzmann(flat, reward, 1)[1] - mp.mpf(3) / 2)


def labels(mu):
    """tr(C F⁺), F the information of a label: over that of uniform pairs"""
    best, _ = boltzmann([mp.mpf(1) / 3] * 3, (1, 0, -1), mp.mpf("0.5"))
    spread = mp.matrix(3, 3)
    for i in range(3):
        for j in range(3):
            spread[i, j] = (best[i] if i == j else 0) - best[i] * best[j]

    def cost(share):
        known = mp.ones(3) / 3  # F + 11ᵀ/3 is regular, and its inverse is F⁺ but for 11ᵀ/3, which C does not see
        for i, j in ((0, 1), (0, 2), (1, 2)):
            edge = mp.matrix([int(k == i) - int(k == j) for k in range(3)])
            known += share(i, j) * sigma(j - i) * sigma(i - j) * edge * edge.T
        product = spread * known**-1
        return mp.fsum(product[k, k] for k in range(3))

    mu = [mp.mpf(x) for x in mu]
    apart = 2 * (mu[0] * mu[1] + mu[0] * mu[2] + mu[1] * mu[2])
    return cost(lambda i, j: 2 * mu[i] * mu[j] / apart) / cost(lambda i, j: mp.mpf(1) / 3)


def smoothed():
    told = mp.mpf("0.9") * mp.mpf("0.7") + mp.mpf("0.1") * mp.mpf("0.3")
    return logit(mp.mpf("0.9") * told + mp.mpf("0.1") * (1 - told)) / logit("0.7")


def true_kl():
    flat = [mp.mpf(1) / 3] * 3
    return kl(boltzmann(flat, (1, 0, -1), mp.mpf("0.5"))[0], flat)


def cure():
    """The better response: 9/10 = σ(2 log 3) by rDPO, as logit((0.7 - 0.1)/0.8) = log 3; 49/58 = σ(2 log 7/3) by π*"""
    best = [mp.mpf(49) / 58, mp.mpf(9) / 58]
    return kl([mp.mpf(9) / 10, mp.mpf(1) / 10], best) / kl([mp.mpf(1) / 2] * 2, best)


ORACLES = {
    "memory_ratio": bytes_held,
    "implicit_margin": pair_margin,
    "loss_of_the_pair": lambda: mp.log(1 + mp.exp(-pair_margin())),
    "what_rewards_lack": lambda: mp.log((mp.exp(2) + 1 + mp.exp(-2)) / 3) / 2,
    "ratio_kept": lambda: mp.mpf(6),
    "curvature_ratio": curvatures,
    "gradient_at_the_start": lambda: mp.mpf("0.1") * sigma(0),
    "reward_by_rounding": lambda: mp.mpf("0.1") * mp.mpf(2) ** (8 - 7) / 2,  # 2⁸ <= 300 < 2⁹, and 7 bits follow
    "accuracy_at_the_start": lambda: mp.mpf(0),
    "falling_below": crossover,
    "margin_of_means": lambda: mp.mpf("0.1") * (mp.mpf("0.9") / 3 + mp.mpf("1.3") / 5) / pair_margin(),
    "critical_beta": largest_eigenvalue,
    "underflow": lambda: 25 * mp.log(2),  # half of 2⁻²⁴
    "gain_of_parts": parts,
    "labels_needed": lambda: labels(("0.01", "0.495", "0.495")),
    "margin_smoothed": smoothed,
    "where_ipo_stops": lambda: 1 / (2 * mp.mpf("0.1")),
    "disliked_under_kto": lambda: mp.mpf(0),
    "kl_under_the_clamp": true_kl,
    "grpo_gradient": lambda: mp.mpf(1) / 2,  # -A/K
    "cost_of_a_cure": cure,
}


def test_every_number_has_an_oracle():
    assert [answer.number.__name__ for answer in faq.ANSWERS] == [*ORACLES]


@pytest.mark.parametrize("answer", faq.ANSWERS, ids=lambda answer: answer.number.__name__)
def test_numbers_are_those_of_the_oracle(answer):
    """A thousand units of rounding: roots and eigenvalues lose a few digits; GRPO's ε is 2e-9 of its deviation"""
    expected = float(ORACLES[answer.number.__name__]())
    within = 3e-9 if answer.number is faq.grpo_gradient else 1000 * np.finfo(float).eps
    assert abs(answer.number() - expected) <= within * max(abs(expected), 1)


# ---- sentences that say more than their number

def test_a_probability_below_that_is_0_in_float16():
    x = faq.underflow()
    with np.errstate(under="ignore"):
        assert np.float16(np.exp(-x * (1 - 1e-9))) > 0
        assert np.float16(np.exp(-x * (1 + 1e-9))) == 0


def test_pairs_that_hold_the_best_need_fewer_labels_than_uniform_ones():
    mu = (0.98, 0.01, 0.01)
    assert faq.labels_needed(mu) < 1
    assert abs(faq.labels_needed(mu) - float(labels(map(str, mu)))) < 1e-12


def test_the_regret_of_drawn_labels_is_what_tells_how_many_are_needed(rng):
    """20,000 labels of either kind of pairs, 300 data sets: n regret, to three standard errors"""
    n, ref, best = 20_000, faq.FLAT, optimum.boltzmann(faq.FLAT, faq.REWARD, 0.5)
    i, j = np.nonzero(1 - np.eye(3))
    for weight in (None, population.drawn_pairs((0.01, 0.495, 0.495))):
        truth = population.bradley_terry_wins(faq.REWARD, weight)
        wins = np.zeros((300, 3, 3))
        wins[:, i, j] = rng.multinomial(n, truth[i, j] / truth.sum(), size=300)
        lost = 0.5 * optimum.kl(population.policy(population.newton(wins, 0.5), ref), best)
        expected = finite_data.regret(ref, truth, 0.5, n)
        assert abs(lost.mean() - expected) < 3 * lost.std() / np.sqrt(300)


def test_ipo_and_dpo_agree_on_weak_preferences_if_tau_is_a_quarter_of_beta():
    beta, p = 0.2, 0.5 + 1e-4
    dpo, ipo = float(logit(p)) / beta, (2 * p - 1) / (2 * beta / 4)
    assert abs(ipo / dpo - 1) < 1e-7  # the next term of the logit: (2p - 1)²/3
    gap = np.array([ipo, 0.0])
    wins = dn.LOSSES["ipo"](tau=beta / 4)
    ref = np.zeros((1, 2))
    up, down = (wins(pair[None], ref_logp=ref)[1][0] for pair in (gap, gap[::-1]))
    assert abs(p * up[0] + (1 - p) * down[1]) < 1e-12  # the expected gradient there


def test_no_policy_of_a_grid_has_a_lower_kto_loss_and_they_spare_the_third():
    ref = shown = np.array([0.4, 0.4, 0.2])
    q, beta = np.array([0.8, 0.7, 0.4]), 0.5

    def loss(pi):
        with np.errstate(divide="ignore", over="ignore"):
            v = beta * np.log(pi / ref)
            value = 1 / (1 + np.exp(-v))
        return (shown * (q * (1 - value) + (1 - q) * value)).sum(axis=-1)

    a, b = np.meshgrid(np.arange(101), np.arange(101))
    grid = np.stack([a, b, 100 - a - b], axis=-1)[a + b <= 100] / 100
    least = grid[loss(grid).argmin()]
    found = minimizers.kto(ref, shown, q, beta)
    assert least[2] == found[2] == 0
    assert loss(found) <= loss(least) < loss(np.array([0.59, 0.40, 0.01]))


def test_responses_of_the_reference_never_estimate_a_kl_above_0(rng):
    for pi in rng.dirichlet(np.ones(3), size=100):
        assert kl_baseline(np.log(pi / faq.FLAT), faq.FLAT) == 0
        assert kl_baseline(np.log(pi / faq.FLAT), pi) > 0  # of the policy, they do


def test_grpos_value_on_policy_is_its_penalty_if_responses_weigh_the_same(rng):
    logp, ref = rng.normal(-2, 0.3, (2, 4, 3, 5)).sum(axis=-1)[:, None]
    mask = np.arange(3) < np.array([1, 2, 3, 3])[:, None]
    logp, ref = np.where(mask, logp, 0), np.where(mask, ref, 0)
    told = {"old_token_logp": logp, "mask": mask[None], "advantage": dn.group_advantage([[1.0, 0.0, 0.0, 1.0]])}
    k3 = np.where(mask, np.exp(ref - logp) - 1 - (ref - logp), 0)[0]
    penalty = 0.04 * (k3.sum(axis=1) / mask.sum(axis=1)).mean()
    same, per_token = (dn.SURROGATES["grpo"](beta=0.04, reduction=how)(logp, ref_token_logp=ref, **told)[0][0]
                       for how in ("sequence_mean", "tokens"))
    assert penalty > 0 and abs(same - penalty) < 1e-12
    assert abs(per_token - 0.04 * k3.sum() / mask.sum()) > 0.01  # where tokens do, the clipped term is left
    told["advantage"] = dn.group_advantage([[1.0, 1.0, 1.0, 1.0]])
    assert not dn.SURROGATES["grpo"](beta=0.0)(logp, **told)[1].any()
