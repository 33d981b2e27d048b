"""Writes dpo_numpy/conformance/golden.json: questions asked of every loss, and their answers to the last bit.

    python tests/golden.py            write the file, whole or not at all
    python tests/golden.py --check    compare it with what would be written, byte for byte

The answers are those of tests/oracle.py, and of a softmax in mpmath below, rounded once to the nearest float64; of the
package only the signatures, and what a loss reads and needs, are used. The file is described by its reader,
dpo_numpy/conformance/golden.py. Inputs are written down here, not drawn: a new loss leaves the others' lines alone.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import sys
from pathlib import Path
from random import Random
from typing import NamedTuple

import oracle
from mpmath import mp, mpf
from strategies import columns, domain

from dpo_numpy.losses import LOSSES
from dpo_numpy.surrogates import SURROGATES

FACTORIES = LOSSES | SURROGATES
FILE = Path(__file__).parents[1] / "dpo_numpy" / "conformance" / "golden.json"
SEAMS = ("pair", "unpaired", "token", "batch", "sequence")
FORMAT = 1
DIGITS = 1000  # 1 - p is good to 16 digits down to p = 1 - 1e-984


class Question(NamedTuple):
    seam: str
    loss: str
    what: str
    hyper: dict
    inputs: dict


# ---- hyper-parameters: the defaults, then others, then each choice of a keyword

#: what a hyper-parameter is where it is not the default; where one loss needs its own, under both names
OTHER = {
    "alpha": 0.3, "beta": 0.25, "center": 0.3, "coefficient": 0.5, "delta": 1.5, "dual": 3.0, "eps": 0.15,
    "eps_high": 0.35, "eps_low": 0.1, "eta": 0.6, "floor": 0.05, "gamma": 0.7, "lam": 2.5, "lam_d": 1.25, "lam_u": 0.75,
    "max_length": 8.0, "tau": 0.4, "w_g": 0.7, "w_p": 0.5, "w_q": 0.3,
    ("alphapo", "alpha"): -0.5, ("alphapo", "beta"): 1.5, ("discopop", "tau"): 0.2, ("infonca", "alpha"): 0.5,
    ("ln_dpo", "beta"): 2.5, ("nca_listwise", "alpha"): 0.5, ("r_dpo", "alpha"): -0.02, ("simpo", "beta"): 2.5,
    ("sppo", "beta"): 0.05,
}


def defaults(name):
    """Those of the signature; where one hyper-parameter follows another, that one's"""
    default = {key: found.default for key, found in inspect.signature(FACTORIES[name]).parameters.items()}
    return {key: default["eps"] if x is None else x for key, x in default.items()}


def settings(name):
    """[(hyper-parameters, names of the inputs)]"""
    default = defaults(name)
    words = {key: domain(FACTORIES[name], key) for key, x in default.items() if isinstance(x, (str, bool))}
    other = {key: x if key in words else OTHER.get((name, key), OTHER.get(key)) for key, x in default.items()}
    choices = [{**other, key: x} for key, choices in words.items() for x in choices if x != default[key]]
    if name in SURROGATES:
        return [(default, tuple(RATIOS)), (other, tuple(RATIOS)), *((hyper, ("ordinary",)) for hyper in choices)]
    found = [(default, ("ordinary", "reference", "right", "wrong", "huge", "edge"))]
    found += [(other, ("ordinary", "reference", "right", "wrong"))] if other != default else []
    return found + [(hyper, ("ordinary", "reference", "wrong")) for hyper in choices]


# ---- what losses read and are told: a row a comparison, as many columns and rows as are wanted

LOGP = [[-12.3, -15.6, -14.1, -19.7], [-48.2, -41.9, -44.4, -52.6], [-3.14, -2.72, -6.28, -1.41]]
REF_LOGP = [[-13.1, -14.9, -15.2, -18.8], [-45.5, -43.7, -46.1, -50.3], [-3.35, -3.05, -5.9, -1.73]]
LENGTH = [[12, 17, 15, 20], [40, 33, 35, 44], [3, 2, 5, 1]]
PROMPT = [7, 20, 2]
REWARD = [[1.5, -0.25, 0.4, -2.0], [-0.7, 0.9, -1.1, 0.2], [3.1, 3.05, 2.8, 3.3]]
EDGE = [[0.0, -1e-300, -2.5, 0.0], [-1e-300, 0.0, -0.3, -1e-300], [-4.5, 0.0, -1e-300, -7.1]]
EDGE_REF = [[-1e-300, -2.5, 0.0, -0.1], [-0.75, 0.0, -0.2, 0.0], [0.0, -1e-300, -3.3, -6.0]]
FACTS = {
    "delta": [0.3, -0.2, 0.05],
    "full_length": [[n + p for n in row] for row, p in zip(LENGTH, PROMPT, strict=True)],
    "keep": [True, False, True],
    "kl": [[0.7, 1.2], [2.5, 0.9], [0.05, 0.02]],
    "label": [True, False, True],
    "length": LENGTH,
    "m0": 0.4,
    "margin": [0.0, 0.5, 1.25],
    "present": [[True, True, True, True], [True, True, True, False], [True, True, False, False]],
    "reward": REWARD,
    "score": [[0.9, 0.4, 0.3, 0.1], [3.5, 2.2, 1.0, -1.0], [1.1, 1.0, 0.7, 0.2]],
    "w": [[0.8, 0.9], [1.3, 1.1], [0.5, 0.4]],
    "win_rate": [[0.9, 0.2], [0.55, 0.4], [0.7, 0.3]],
    "z0": [0.4, 0.0, 1.7],
}
PER_TOKEN = ("alphapo", "ln_dpo", "orpo", "simpo")
EXPONENTIAL = ("f_dpo_forward_kl", "f_dpo_alpha", "f_dpo_chi2")


def reach(name, what, hyper):
    """How far apart the best and the worst are: 40 where the loss takes a sigmoid, nats or nats a token"""
    if what == "huge":
        return 1500.0 if name in EXPONENTIAL else 1e4  # e⁷⁵⁰ is beyond float64
    return 12.0 if name in EXPONENTIAL else 40 / hyper.get("beta", 1.0)


def log_probs(name, what, hyper, K):
    """logp and ref_logp, (2 or 3, K)"""
    if what == "ordinary":
        return LOGP, REF_LOGP
    if what == "reference":
        return REF_LOGP[:2], REF_LOGP[:2]
    if what == "edge":
        return EDGE, EDGE_REF
    shift = shifts(what, reach(name, what, hyper), K)
    if name in PER_TOKEN or hyper.get("reduction") == "mean":
        shift = [[x * n for x, n in zip(*rows, strict=False)] for rows in zip(shift, LENGTH, strict=False)]
    ref = [[x - max(0, *row) for x in REF_LOGP[b]] for b, row in enumerate(shift)]
    return [[x + d for x, d in zip(*rows, strict=False)] for rows in zip(ref, shift, strict=True)], ref


def shifts(what, reach, K):
    """Two rows: apart evenly, and one end alone; K = 1: a desired and an undesired response"""
    if K == 1:
        up, down = ([reach], [-reach])
        return [down, up] if what == "wrong" else [up, down]
    even, low, high = ([reach * (start - k / (K - 1)) for k in range(K)] for start in (0.5, 0, 1))
    if what == "huge":
        return [even, even[::-1]]
    return [even, low] if what == "right" else [even[::-1], [x - reach for x in high[::-1]]]


def as_tokens(row, tokens):
    """(K,) -> (K, T): a log-prob spread over the tokens that count, the first position being the prompt's"""
    return [[0.0, *(x / n for _ in range(n)), *(0.0,) * (max(tokens) - n)] for x, n in zip(row, tokens, strict=True)]


def inputs(name, what, hyper):
    loss = LOSSES[name](**hyper)
    K = columns(loss)
    logp, ref = ([row[:K] for row in x] for x in log_probs(name, what, hyper, K))
    known = {key: x if isinstance(x, float) else [row[:K] if isinstance(row, list) else row for row in x[:len(logp)]]
             for key, x in FACTS.items()}
    known |= {"logp": logp, "ref_logp": ref}
    if what in ("reference", "edge"):
        known["kl"] = [[0.0, 0.0]] * len(logp)
    if "reward" in loss.reads and what != "ordinary":
        known["reward"] = [[x - y for x, y in zip(*rows, strict=True)] for rows in zip(logp, ref, strict=True)]
    known["full_logp"] = [[x - 1.1 * p for x in row] for row, p in zip(logp, PROMPT, strict=False)]
    if "token_logp" in loss.reads:
        counts = [(3, 5), (4, 2), (1, 5)][:len(logp)]  # one width, 1 + 5
        known["token_logp"], known["ref_token_logp"] = (
            [[row + [0.0] * (6 - len(row)) for row in as_tokens(*rows)] for rows in zip(x, counts, strict=True)]
            for x in (logp, ref))
        known["mask"] = [[[1 <= t <= n for t in range(6)] for n in count] for count in counts]
    return {key: known[key] for key in (*loss.reads, *loss.needs)}


# ---- what losses of tokens read and are told: (2, 2, 4)

TOKEN_MASK = [[[False, True, True, True], [False, True, True, False]],
              [[False, True, False, False], [False, True, True, True]]]
OLD_TOKEN_LOGP = [[[0.0, -1.21, -0.35, -2.7], [0.0, -0.04, -3.3, 0.0]],
                  [[0.0, -0.9, 0.0, 0.0], [0.0, -5.1, -0.62, -1.45]]]
ADVANTAGE = [[1.2, -0.8], [-0.5, 0.7]]
TOKEN_ENTROPY = [[[0.0, 1.1, 0.4, 0.9], [0.0, 0.02, 1.3, 0.0]], [[0.0, 0.7, 0.0, 0.0], [0.0, 1.6, 0.5, 1.0]]]
#: log-ratios to the policy that sampled; to the reference they are some 0.3 from that, of either sign
RATIOS = {
    "ordinary": [[[0.0, 0.31, -0.07, -0.4], [0.0, -0.33, 0.12, 0.0]], [[0.0, 0.45, 0.0, 0.0], [0.0, 0.02, -0.5, 0.27]]],
    "on_policy": [[[0.0] * 4] * 2] * 2,
    "far": [[[0.0, -3.0, 0.3, -100.0], [0.0, -7.5, 2.5, 0.0]], [[0.0, 0.5, 0.0, 0.0], [0.0, 4.9, -0.6, -50.0]]],
}


def each(f, *arrays):
    """f of the numbers of nested lists, place by place"""
    if isinstance(arrays[0], list):
        return [each(f, *rows) for rows in zip(*arrays, strict=True)]
    return f(*arrays)


def of_tokens(name, what, hyper):
    loss, d = SURROGATES[name](**hyper), RATIOS[what]
    apart = 0.0 if what == "on_policy" else 0.3
    known = {
        "mask": TOKEN_MASK, "old_token_logp": OLD_TOKEN_LOGP, "token_entropy": TOKEN_ENTROPY,
        "token_logp": each(lambda old, d: min(0.0, old + d), OLD_TOKEN_LOGP, d),
        "ref_token_logp": each(lambda old, here: old - apart if here else 0.0, OLD_TOKEN_LOGP, TOKEN_MASK),
        "advantage": each(lambda d, here: round(math.sin(d), 2) if here else 0.0, d, TOKEN_MASK)  # one a token
        if what == "far" else ADVANTAGE,
        "old_token_value": TOKEN_ENTROPY,
        "token_value": each(lambda old, d: old + d, TOKEN_ENTROPY, d),
        "token_return": each(lambda x, here: 0.75 - x if here else 0.0, TOKEN_ENTROPY, TOKEN_MASK),
    }
    return {key: known[key] for key in (*loss.reads, *loss.needs)}


# ---- logits

#: the tokens (B, 2, T) of two comparisons, prompt, response, padding; and where the response is
TOKENS = {
    "right": [[[2, 1, 3, 0, 0, 0], [2, 1, 1, 2, 3, 0]], [[1, 3, 2, 2, 0, 0], [1, 3, 0, 0, 0, 0]]],
    "left": [[[0, 0, 2, 1, 3, 0], [0, 2, 1, 1, 2, 0]], [[0, 0, 1, 3, 2, 0], [0, 0, 0, 1, 3, 0]]],
}
MASKS = {
    "right": [[(2, 4), (2, 6)], [(2, 5), (2, 3)]],
    "left": [[(4, 6), (3, 6)], [(4, 6), (5, 6)]],
}
LOGITS = {  # name -> (padding, scale of the logits, scale of the reference's)
    "ordinary": ("right", 1.0, 1.0),
    "left_padded": ("left", 1.0, 1.0),
    "reference": ("right", 1.0, 1.0),
    "far": ("right", 250.0, 1.0),
}


def logits(what):
    padding, scale, ref_scale = LOGITS[what]
    random = Random(what)  # Python promises the same random() for ever

    def some(scale):
        return [[[[round(scale * (4 * random.random() - 2), 2) for _ in range(4)] for _ in range(6)]
                 for _ in range(2)] for _ in range(2)]

    mask = [[[start <= t < stop for t in range(6)] for start, stop in row] for row in MASKS[padding]]
    ours = some(scale)
    ref = ours if what == "reference" else some(ref_scale)
    return {"logits": ours, "ref_logits": ref, "tokens": TOKENS[padding], "mask": mask}


def sequences():
    """(N, T, V) logits: a name, and what is told"""
    for what in LOGITS:
        if what != "reference":
            told = logits(what)
            yield what, {key: [*told[key][0], *told[key][1]] for key in ("logits", "tokens", "mask")}
    row, none = [0.5, -1.25, 3.0, 0.75], [0.0] * 4
    yield "certain", {  # log-probs that are 0 but for their last digits, and the least likely
        "logits": [[[40.0, 0.0, -1.0, 2.0], [0.0, 800.0, 0.0, 0.0], none], [[-800.0, 0.0, 5.0, 0.0], row, none]],
        "tokens": [[2, 0, 1], [2, 0, 3]], "mask": [[False, True, True]] * 2}
    yield "level", {  # far from 0 all together: the softmax does not notice
        "logits": [[[1e4 + x for x in row], [1e4 - x for x in row], none], [[x - 1e4 for x in row], [1e300] * 4, none]],
        "tokens": [[2, 2, 1], [2, 0, 3]], "mask": [[False, True, True]] * 2}
    yield "excluded", {  # a logit of -inf: what the vocabulary has and the policy never says
        "logits": [[[-math.inf, 0.5, 1.5, -0.5], [0.0, -math.inf, -math.inf, 0.25], none]],
        "tokens": [[2, 2, 0]], "mask": [[False, True, True]]}
    yield "nothing", {"logits": [[row, row, row]], "tokens": [[2, 2, 0]], "mask": [[False] * 3]}


# ---- all of them

FROM_LOGITS = {
    "dpo": {"beta": 0.1},
    "ipo": {"tau": 0.1, "reduction": "mean"},
    "simpo": {"beta": 2.0, "gamma": 1.0, "scale": "absolute", "eps": 0.0},
    "sft": {"reduction": "tokens"},
}


def seam_of(loss):
    if loss.coupled:
        return "batch"
    return "token" if loss.reads[0].startswith("token_") else "unpaired" if columns(loss) == 1 else "pair"


def questions():
    asked = [Question("sequence", "logp", what, {}, told) for what, told in sequences()]
    for name in FACTORIES:
        ask = of_tokens if name in SURROGATES else inputs
        for hyper, whats in settings(name):
            seam = seam_of(FACTORIES[name](**hyper))
            asked += [Question(seam, name, what, hyper, ask(name, what, hyper)) for what in whats]
        if name in FROM_LOGITS:
            hyper = FROM_LOGITS[name]
            for what in LOGITS:
                told = logits(what)
                if "ref_logp" not in LOSSES[name](**hyper).needs:
                    del told["ref_logits"]
                asked.append(Question("batch", name, what, hyper, told))
    return sorted(asked, key=lambda question: SEAMS.index(question.seam))


# ---- answers

def rows_of(inputs):
    """The numbers of each comparison"""
    size = max(len(x) for x in inputs.values() if isinstance(x, list))
    return [{key: x[b] if isinstance(x, list) else x for key, x in inputs.items()} for b in range(size)]


def answer(question):
    """value and {reading: gradient}, mpf in nested lists"""
    if question.seam == "sequence":
        found = [sequence(*row) for row in zip(*question.inputs.values(), strict=True)]
        return [value for value, _ in found], {"logits": [grad for _, grad in found]}
    if "logits" in question.inputs:
        return through_logits(question)
    loss = FACTORIES[question.loss](**question.hyper)
    value, slopes = oracle.exact(question.loss, question.hyper, rows_of(question.inputs))
    share = mpf(1)
    if question.seam == "batch":  # a weight of 1/B a row
        with mp.workdps(DIGITS):
            share = 1 / mpf(len(value))
            value = sum(value, mpf(0)) * share
    return value, {name: filled(question.inputs[name], slopes, name, share) for name in loss.reads}


def filled(like, slopes, name, share, *at):
    """Slopes by place, in the shape of what they are slopes in"""
    if isinstance(like, list):
        return [filled(x, slopes, name, share, *at, i) for i, x in enumerate(like)]
    with mp.workdps(DIGITS):
        return slopes[at[0], name, *at[1:]] * share


def sequence(logits, tokens, mask):
    """log π(y|x) = Σₜ log softmax(logitsₜ₋₁)[tokenₜ] and its gradient"""
    with mp.workdps(DIGITS):
        value, grad = mpf(0), [[mpf(0)] * len(row) for row in logits]
        for t in range(1, len(tokens)):
            if mask[t]:
                e = [mp.exp(mpf(x)) for x in logits[t - 1]]
                total = sum(e)
                value += mp.log(e[tokens[t]] / total)
                rest = sum(x for v, x in enumerate(e) if v != tokens[t]) / total  # 1 - p, were it 1 - 1e-2000
                grad[t - 1] = [rest if v == tokens[t] else -x / total for v, x in enumerate(e)]
        return value, grad


def through_logits(question):
    """The loss of log-probs that are softmaxes of logits, each row with weight 1/B"""
    told, rows, slopes = question.inputs, [], []
    for b, mask in enumerate(told["mask"]):
        at = [sequence(told["logits"][b][k], told["tokens"][b][k], mask[k]) for k in (0, 1)]
        slopes.append([slope for _, slope in at])
        rows.append({"logp": tuple(value for value, _ in at), "length": tuple(map(sum, mask))})
        if "ref_logits" in told:
            ref = [sequence(told["ref_logits"][b][k], told["tokens"][b][k], mask[k])[0] for k in (0, 1)]
            rows[-1]["ref_logp"] = tuple(ref)
    value, grad = oracle.exact(question.loss, question.hyper, rows)
    with mp.workdps(DIGITS):
        share = 1 / mpf(len(rows))
        return sum(value, mpf(0)) * share, {"logits": [
            [[[share * grad[b, "logp", k] * x for x in row] for row in slopes[b][k]] for k in (0, 1)]
            for b in range(len(rows))]}


def nearest(x):
    """The float64 nearest to an mpf of any size, ties to even: no rounding but this one. No -0.0: what 400 digits leave
    of 1 - (1 - 1e-2000) may have either sign.
    """
    sign, man, exponent, bits = x._mpf_
    if not man:
        return 0.0
    if exponent + bits > 1025:
        found = math.inf
    elif exponent + bits < -1080:
        found = 0.0
    else:  # a quotient of integers is rounded correctly, to subnormals as well
        try:
            found = float(int(man) << exponent) if exponent >= 0 else int(man) / (1 << -exponent)
        except OverflowError:
            found = math.inf
    return -found if sign and found else found


# ---- the file

def rounded(x):
    return [rounded(each) for each in x] if isinstance(x, list) else nearest(x)


def decimal(x):
    """As JSON has it: the shortest decimal, infinities as strings"""
    if isinstance(x, (list, tuple)):
        return [decimal(each) for each in x]
    if isinstance(x, dict):
        return {key: decimal(each) for key, each in x.items()}
    return str(x) if isinstance(x, float) and math.isinf(x) else x


def hexadecimal(x):
    """The floats in hexadecimal; nothing for what holds none"""
    if isinstance(x, dict):
        return {key: found for key, each in x.items() if (found := hexadecimal(each)) is not None}
    if isinstance(x, (list, tuple)):
        found = [hexadecimal(each) for each in x]
        return None if any(each is None for each in found) else found
    return x.hex() if isinstance(x, float) else None


def line(question):
    value, grad = answer(question)
    case = {"hyper": question.hyper, "inputs": question.inputs, "value": rounded(value),
            "grad": {name: rounded(x) for name, x in grad.items()}}
    told = {"loss": question.loss, "what": question.what, **decimal(case), "hex": hexadecimal(case)}
    return json.dumps(told, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def document():
    asked = questions()
    seams = []
    for seam in SEAMS:
        names = dict.fromkeys(question.loss for question in asked if question.seam == seam)
        losses = [f'  "{name}": [\n' + ",\n".join(
            line(question) for question in asked if (question.seam, question.loss) == (seam, name)) + "\n  ]"
            for name in names]
        seams.append(f' "{seam}": {{\n' + ",\n".join(losses) + "\n }")
    return f'{{\n "format": {FORMAT},\n' + ",\n".join(seams) + "\n}\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description="Write the golden file, or check it.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the file is not what it should be")
    args = parser.parse_args(argv)
    text = document().encode()
    if args.check:
        same = FILE.is_file() and FILE.read_bytes() == text
        print(f"{FILE.name} is {'' if same else 'not '}what tests/golden.py writes")
        return 0 if same else 1
    part = FILE.with_suffix(".part")
    part.write_bytes(text)
    os.replace(part, FILE)
    print(f"{FILE.name}: {len(questions())} cases, {len(text):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
