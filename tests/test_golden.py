"""golden.json: that it is what the oracle says, complete and readable; that the package says the same."""

import inspect
import json
import math
import re
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import golden
import mpmath
import numpy as np
import oracle
import pytest
import strategies
from mpmath import mp, mpf
from test_losses import SUMS

import dpo_numpy as dn
from dpo_numpy.cli.golden import lines
from dpo_numpy.conformance.golden import SEAMS, Case, cases, raw
from dpo_numpy.losses import LOSSES
from dpo_numpy.surrogates import SURROGATES

FACTORIES = LOSSES | SURROGATES
EPS, TINY = np.finfo(float).eps, np.finfo(float).smallest_subnormal
EVERY = cases()


# ---- the file

def test_it_asks_what_the_generator_asks():
    """Loss by loss and word by word; the answers are the next tests'."""
    asked = [golden.decimal({"seam": q.seam, "loss": q.loss, "what": q.what, "hyper": q.hyper, "inputs": q.inputs})
             for q in golden.questions()]
    found = [{"seam": seam, **{key: case[key] for key in ("loss", "what", "hyper", "inputs")}} for seam, case in raw()]
    assert [json.loads(json.dumps(x)) for x in asked] == found


FIRST = {(q.seam, q.loss, "logits" in q.inputs): q for q in reversed(golden.questions())}


@pytest.mark.parametrize(("seam", "loss", "logits"), FIRST)
def test_its_answers_are_the_oracles(seam, loss, logits):
    """the first case of each"""
    line = golden.line(FIRST[seam, loss, logits])
    assert f"\n{line}" in golden.FILE.read_text("utf-8")


@pytest.mark.slow
def test_it_is_what_the_generator_writes_byte_for_byte():
    assert golden.document().encode() == golden.FILE.read_bytes()


def test_the_file_stays_small_and_a_case_is_a_line():
    text = golden.FILE.read_text("utf-8")
    assert len(text.encode()) < 1.5e6
    lines = [line.rstrip(",") for line in text.splitlines() if line.startswith("{") and len(line) > 1]
    assert [json.loads(line) for line in lines] == [case for _, case in raw()]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_stands_there_with_its_defaults_and_with_each_choice(name):
    found = [case for case in EVERY if case.loss == name]
    default = {key: p.default for key, p in inspect.signature(LOSSES[name]).parameters.items()}
    whats = {case.what for case in found if case.hyper == default}
    assert whats >= {"ordinary", "reference", "right", "wrong", "huge", "edge"}
    for key, value in default.items():
        seen = {case.hyper[key] for case in found}
        if isinstance(value, (str, bool)):
            assert seen == set(strategies.domain(LOSSES[name], key))
        else:
            assert len(seen) > 1


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_stands_there_on_its_policy_and_off_it(name):
    found = [case for case in EVERY if case.loss == name]
    default = golden.defaults(name)
    assert {case.what for case in found if case.hyper == default} == {"ordinary", "on_policy", "far"}
    for key, value in default.items():
        seen = {case.hyper[key] for case in found}
        assert seen == set(strategies.domain(SURROGATES[name], key)) if isinstance(value, str) else len(seen) > 1


@pytest.mark.parametrize("case", [case for case in EVERY if "logits" not in case.inputs], ids=lambda case: case.loss)
def test_a_case_holds_what_its_loss_takes(case):
    loss = FACTORIES[case.loss](**case.hyper)
    assert set(case.inputs) == {*loss.reads, *loss.needs}
    assert list(case.grad) == list(loss.reads)
    assert all(case.grad[key].shape == case.inputs[key].shape for key in case.grad)
    first = case.inputs[loss.reads[0]]
    assert len(first) in (2, 3)
    assert case.value.shape == (() if case.seam == "batch" else first.shape[:1])
    assert (case.seam == "batch") == loss.coupled
    assert (case.seam == "unpaired") == (first.shape[1] == 1)
    for key in ("logp", "ref_logp", "full_logp", "token_logp", "ref_token_logp", "old_token_logp"):
        assert (case.inputs.get(key, np.zeros(1)) <= 0).all()
    if "length" in case.inputs and case.what == "ordinary":
        assert (case.inputs["length"][:, 0] != case.inputs["length"][:, 1]).any()


def floats(x):
    """in a JSON value, in order"""
    if isinstance(x, dict):
        return [y for each in x.values() for y in floats(each)]
    if isinstance(x, list):
        return [y for each in x for y in floats(each)]
    return [float(x)] if isinstance(x, float) or x in ("inf", "-inf") else []


def test_decimals_and_hexadecimals_are_the_same_bits():
    for _, case in raw():
        decimal = floats({key: case[key] for key in ("hyper", "inputs", "value", "grad")})
        hexadecimal = [float.fromhex(x) for x in re.findall(r'"(-?0x[^"]+|-?inf)"', json.dumps(case["hex"]))]
        assert struct.pack(f"{len(decimal)}d", *decimal) == struct.pack(f"{len(hexadecimal)}d", *hexadecimal)
        assert decimal


# ---- rounding

def test_nearest_is_the_nearest():
    with mp.workdps(700):
        for exact, expected in [
            (mpf(1) / 3, 1 / 3),
            (1 + mpf(2)**-53, 1.0),  # ties to even, twice
            (1 + 3 * mpf(2)**-53, 1 + 2**-51),
            (1 + mpf(2)**-53 + mpf(2)**-2000, 1 + 2**-52),
            (mpf(2)**-1074, TINY),
            (mpf(2)**-1075, 0.0),
            (mpf(2)**-1075 * (1 + mpf(2)**-60), TINY),
            # were it rounded to 53 bits first, it would then be a tie
            (mpf(2)**-1074 * (2.5 - mpf(2)**-60), 2 * TINY),
            (mpf(2)**1024, math.inf),
            (mpf(2)**1024 - mpf(2)**970, math.inf),
            (mpf(2)**1024 - mpf(2)**970 - 1, np.finfo(float).max),
            (mp.ldexp(1, 10**30), math.inf),
            (mp.ldexp(1, -(10**30)), 0.0),
            (mpf(0), 0.0),
        ]:
            assert golden.nearest(exact) == expected
            assert golden.nearest(-exact) == -expected
            assert math.copysign(1, golden.nearest(-exact)) == (-1 if expected else 1)


def test_nearest_agrees_with_fifty_digits_of_every_answer():
    """of one case each; Python reads decimals correctly rounded"""
    for question in FIRST.values():
        value, grad = golden.answer(question)
        for x in flat([value, *grad.values()]):
            with mp.workdps(60):
                assert golden.nearest(x) == float(mpmath.nstr(x, 50))


def flat(x):
    return [y for each in x for y in flat(each)] if isinstance(x, list) else [x]


def test_softmax_of_the_generator():
    """log (1/2 · 1/4), by hand, and its gradient; rows of logits differ by a constant from log-probs"""
    value, grad = golden.sequence([[7.0, 7.0], [math.log(3), 0.0], [5.0, 9.0]], [0, 1, 1], [False, True, True])
    assert float(value) == pytest.approx(math.log(1 / 8), rel=4 * EPS)
    assert np.array(grad, float) == pytest.approx(np.array([[-0.5, 0.5], [-0.75, 0.75], [0, 0]]), rel=4 * EPS)


# ---- the generator writes whole or not at all

def test_the_generator_writes_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(golden, "FILE", tmp_path / "golden.json")
    monkeypatch.setattr(golden, "document", lambda: '{"σ": 1}\n')
    assert golden.main(["--check"]) == 1
    assert golden.main([]) == 0
    assert (tmp_path / "golden.json").read_bytes() == '{"σ": 1}\n'.encode()
    assert golden.main(["--check"]) == 0
    monkeypatch.setattr(golden, "document", lambda: '{"σ": 2}\n')
    assert golden.main(["--check"]) == 1
    assert "golden.json is not what" in capsys.readouterr().out.splitlines()[-1]

    def breaks():
        raise AssertionError("does not settle")

    monkeypatch.setattr(golden, "document", breaks)
    with pytest.raises(AssertionError, match="does not settle"):
        golden.main([])
    assert [path.name for path in tmp_path.iterdir()] == ["golden.json"]
    assert (tmp_path / "golden.json").read_bytes() == '{"σ": 1}\n'.encode()


# ---- the reader

def test_the_reader_chooses():
    assert {case.seam for case in EVERY} == set(SEAMS)
    for seam in SEAMS:
        assert [case.what for case in cases(seam)] == [case.what for case in EVERY if case.seam == seam]
    assert {(case.seam, case.loss) for case in cases(loss="rpo")} == {("pair", "rpo"), ("batch", "rpo")}
    assert {case.loss for case in cases("batch", "ipo")} == {"ipo"}
    assert cases("pair", "aot") == []


def test_the_readers_arrays():
    case, = [case for case in cases("batch", "ipo") if case.what == "far"]
    assert case.inputs["logits"].shape == case.grad["logits"].shape == (2, 2, 6, 4)
    assert [case.inputs[key].dtype.kind for key in ("logits", "tokens", "mask")] == ["f", "i", "b"]
    assert case.value.shape == ()
    infinite, = [case for case in cases("pair", "orpo") if case.what == "edge" and np.isinf(case.value).any()]
    assert infinite.value.dtype == float
    infinite.value[0] = 7  # the next reader gets numbers of its own
    assert 7 not in [case.value[0] for case in cases("pair", "orpo")]


@pytest.mark.parametrize(("choice", "sentence"), [
    ({"seam": "pairs"}, "^seam is 'pairs'; expected 'pair', 'unpaired', 'token', 'batch' or 'sequence'$"),
    ({"loss": "dpoo"}, "^loss is 'dpoo'; expected one of dpo, cdpo, .*logp$"),
])
def test_the_reader_says_what_there_is(choice, sentence):
    with pytest.raises(ValueError, match=sentence):
        cases(**choice)


# ---- the package against the file

def ours(case):
    """value and gradients of the package, shaped as in the file"""
    loss = FACTORIES[case.loss](**case.hyper)
    read = {key: case.inputs[key] for key in loss.reads}
    weight = {"weight": np.full(len(read[loss.reads[0]]), 1 / len(read[loss.reads[0]]))} if case.seam == "batch" else {}
    value, grad = loss(read, **weight, **{key: case.inputs[key] for key in loss.needs})
    return (weight["weight"] @ value if weight else value), grad


def errors(case):
    """[(error in units, sentence)], of each number

    A unit is an ulp of the answer, or what the answer moves by when its inputs move by an ulp each, if that is more;
    where terms of a known size cancel (`test_losses.SUMS`), an ulp of these besides: near x = 0 discopop's slope may be
    a third of its largest term, and which ulp they are off by is the CPU's exponential's choice. Numbers below the
    smallest normal one are good to that share of their inputs; hyper-parameters multiply it.
    """
    value, grad = ours(case)
    pairs = [(value, case.value, "value")] + [(grad[key], case.grad[key], key) for key in case.grad]
    found, moved = [], None
    for got, expected, what in pairs:
        assert np.shape(got) == expected.shape
        for at in np.ndindex(expected.shape):
            x, y = float(np.asarray(got)[at]), float(expected[at])
            sentence = f"{case.loss}{case.hyper} {case.what}: {what} {at} is {x!r}, golden {y!r}"
            if x == y:
                found.append((0.0, sentence))
                continue
            if not (math.isfinite(x) and math.isfinite(y)):
                found.append((math.inf, sentence))
                continue
            unit = float(np.spacing(abs(y)))
            if abs(x - y) > 4 * unit:
                moved = moved or moves(case)
                unit = max(unit, float(moved[what][at]), floor(case, y))
                unit += np.finfo(float).eps * SUMS[case.loss](case.hyper) if case.loss in SUMS else 0.0
            found.append((abs(x - y) / unit, sentence))
    return found


def floor(case, y):
    if abs(y) >= np.finfo(float).smallest_normal:
        return 0.0
    largest = max(abs(case.inputs[key]).max() for key in case.grad)
    return TINY * math.prod(1 + abs(x) for x in case.hyper.values() if not isinstance(x, str)) * max(1.0, largest)


def moves(case):
    """{what: how far each number moves with its inputs}, as the oracle tells"""
    rows = golden.rows_of({key: x.tolist() for key, x in case.inputs.items()})
    rows = [{key: floats64(x) for key, x in row.items()} for row in rows]
    value, grad = oracle.moves(case.loss, case.hyper, rows)
    found = {key: np.zeros(x.shape) for key, x in case.grad.items()}
    for (b, key, *k), x in grad.items():
        found[key][b, *k] = x
    if case.seam == "batch":
        return {"value": np.float64(sum(value) / len(rows)), **{key: x / len(rows) for key, x in found.items()}}
    return {"value": np.array(value, float), **found}


def floats64(x):
    return [floats64(each) for each in x] if isinstance(x, list) else np.float64(x) if isinstance(x, float) else x


@pytest.mark.parametrize("name", FACTORIES)
def test_the_package_says_the_same(name):
    found = [case for case in cases(loss=name) if "logits" not in case.inputs]
    worst, sentence = max(error for case in found for error in errors(case))
    assert worst <= 4, f"{worst:.1f} units: {sentence}"


@pytest.mark.parametrize("name", ["dpo", "orpo", "kto_pair", "ld_dpo"])
def test_the_comparison_can_fail(name):
    """A relative error of 1e-12 in one number"""
    case = cases(loss=name)[0]
    assert max(errors(case))[0] <= 4
    for x in (case.value, *case.grad.values()):
        at = next(at for at in np.ndindex(x.shape) if x[at])
        right, x[at] = float(x[at]), x[at] * (1 + 1e-12)
        assert max(errors(case))[0] > 4
        x[at] = right


def softmax_of(logits, tokens, mask):
    """p where it counts, and what log π and 1 - p may be off by, an ulp of each logit at a time: (..., T, V) each

    |∂ log π/∂x| is the distance from the one-hot, |∂pᵥ/∂xᵤ| is pᵥ (1 - pᵥ) for u = v and pᵥ pᵤ else.
    """
    counted = np.roll(mask, -1, axis=-1)[..., None]
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = p / p.sum(axis=-1, keepdims=True) * counted
    hot = (np.arange(logits.shape[-1]) == np.roll(tokens, -1, axis=-1)[..., None]) * counted
    ulp = np.spacing(np.abs(np.where(np.isfinite(logits), logits, 0)))
    off = abs(hot - p)
    moved = p * ((1 - 2 * p) * ulp + (p * ulp).sum(axis=-1, keepdims=True))
    return (off * ulp).sum(axis=(-1, -2)), np.maximum(moved, np.spacing(off)) * counted, off


@pytest.mark.parametrize("case", cases("sequence"), ids=lambda case: case.what)
def test_sequence_log_probs(case):
    logits, tokens, mask = case.inputs.values()
    value, pullback = dn.sequence_logp(logits, tokens, mask)
    dlogits = pullback(np.ones(len(value)))
    value_moves, grad_moves, _ = softmax_of(logits, tokens, mask)
    assert (abs(value - case.value) <= 4 * np.maximum(value_moves, np.spacing(abs(case.value)))).all()
    assert (abs(dlogits - case.grad["logits"]) <= 4 * np.maximum(grad_moves, np.spacing(abs(dlogits)))).all()
    assert not dlogits[np.roll(~mask, -1, axis=-1)].any()


@pytest.mark.parametrize("case", [case for case in cases("batch") if "logits" in case.inputs],
                         ids=lambda case: f"{case.loss}-{case.what}")
def test_losses_of_logits(case):
    """From logits to the mean of the loss and back. A log-prob is off by an ulp and what its logits move it by; what
    the loss makes of that, its oracle tells."""
    loss, told = LOSSES[case.loss](**case.hyper), case.inputs
    B, mask = len(told["mask"]), told["mask"]
    logp, pullback = dn.sequence_logp(told["logits"], told["tokens"], mask)
    known = {"logp": logp, "length": mask.sum(axis=-1)}
    if "ref_logits" in told:
        known["ref_logp"], _ = dn.sequence_logp(told["ref_logits"], told["tokens"], mask)
    value, grad = loss(logp, **{key: known[key] for key in loss.needs}, weight=np.full(B, 1 / B))
    dlogits = pullback(grad)

    logp_moves, p_moves, off = softmax_of(told["logits"], told["tokens"], mask)
    ulps = 1 + (logp_moves / np.spacing(abs(logp))).max()
    if "ref_logits" in told:
        ref_moves, _, _ = softmax_of(told["ref_logits"], told["tokens"], mask)
        ulps = max(ulps, 1 + (ref_moves / np.spacing(abs(known["ref_logp"]))).max())
    rows = [{key: floats64(x[b].tolist()) for key, x in known.items()} for b in range(B)]
    value_moves, slope_moves = oracle.moves(case.loss, case.hyper, rows)
    slope_moves = np.array([[float(slope_moves[b, "logp", k]) for k in (0, 1)] for b in range(B)]) / B
    exact, dexact = case.value, case.grad["logits"]
    assert abs(value.mean() - exact) <= 4 * (ulps * float(sum(value_moves)) / B + np.spacing(abs(exact)))
    room = ulps * slope_moves[..., None, None] * off + abs(grad)[..., None, None] * p_moves + np.spacing(abs(dexact))
    assert (abs(dlogits - dexact) <= 4 * room).all()


def test_weights_of_the_file_are_those_of_a_mean():
    """the seam "batch" gives a number: the mean over rows of what the oracle says of each"""
    case = cases("batch", "kto_pair")[0]
    rows = golden.rows_of({key: x.tolist() for key, x in case.inputs.items()})
    value, _ = oracle.exact(case.loss, case.hyper, rows)
    assert float(Fraction(float(sum(value))) / 3) == pytest.approx(float(case.value), rel=4 * EPS)


# ---- other languages

HERE, PAGE = Path(__file__).parent, Path(__file__).parents[1] / "docs" / "other-languages.md"
COMPILERS = {
    "golden_dpo.mjs": (["node"], None),  # nothing to compile
    "golden_dpo.cpp": (["g++"], ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror"]),
    "golden_dpo.rs": (["rustc", "cc"], ["rustc", "--edition", "2021", "-D", "warnings"]),  # cc links
}


@pytest.mark.parametrize("name", COMPILERS)
def test_another_language_agrees_and_can_disagree(name, tmp_path):
    """Also below the smallest normal number and where the answer is infinite; and says so where it is NaN."""
    needed, compiler = COMPILERS[name]
    if absent := [tool for tool in needed if shutil.which(tool) is None]:
        pytest.skip(f"there is no {absent[0]} here")
    program = [tmp_path / "golden_dpo"] if compiler else ["node", HERE / name]
    if compiler:
        run = subprocess.run([*compiler, HERE / name, "-o", *program], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr

    def said(told):
        """exit code and output, given these cases"""
        if compiler:
            text = "".join(f"{line}\n" for case in told for line in lines(golden_case(case)))
            run = subprocess.run(program, input=text, capture_output=True, text=True, timeout=60)
        else:
            file = tmp_path / "golden.json"
            file.write_text(json.dumps({"pair": {"dpo": [anew(case) for case in told]}}), "utf-8")
            run = subprocess.run([*program, file], capture_output=True, text=True, timeout=60)
        return run.returncode, run.stdout + run.stderr

    found = [case for _, case in raw("pair", "dpo")]
    code, out = said(found)
    assert code == 0, out
    assert f": {3 * sum(len(case['value']) for case in found)} numbers" in out
    code, out = said([json.loads(golden.line(question)) for question in EXTREMES])
    assert code == 0, out
    assert said([])[0] == 1
    for b, k in [(0, None), (1, 0), (2, 1)]:  # the value of a row; a slope
        wrong = json.loads(json.dumps(found[0]))
        row, at = (wrong["value"], b) if k is None else (wrong["grad"]["logp"][b], k)
        row[at] *= 1 + 1e-13
        code, out = said([wrong, *found[1:]])
        assert code == 1
        assert f"ordinary, row {b}: " in out and out.count(", row ") == 1
    wrong = json.loads(json.dumps(found[0]))
    wrong["inputs"]["logp"][0][0] = wrong["inputs"]["ref_logp"][0][0] = "-inf"  # their difference is NaN
    code, out = said([wrong, *found[1:]])
    assert code == 1
    assert out.lower().count("nan") >= 3


EXTREMES = [
    golden.Question("pair", "dpo", "tiny", {"beta": 1.0}, {"logp": [[0.0, -740.0]], "ref_logp": [[0.0, 0.0]]}),
    golden.Question("pair", "dpo", "infinite", {"beta": 1e300}, {"logp": [[-1e300, 0.0]], "ref_logp": [[0.0, 0.0]]}),
]


def anew(case):
    """its hexadecimals those of its decimals"""
    told = {key: as_floats(case[key]) for key in ("hyper", "inputs", "value", "grad")}
    return {**case, "hex": golden.hexadecimal(told)}


def as_floats(x):
    if isinstance(x, dict):
        return {key: as_floats(each) for key, each in x.items()}
    return [as_floats(each) for each in x] if isinstance(x, list) else float(x)


def golden_case(case):
    told = {key: {name: np.array(as_floats(x)) for name, x in case[key].items()} for key in ("inputs", "grad")}
    return Case("pair", case["loss"], case["what"], case["hyper"], told["inputs"], np.array(as_floats(case["value"])),
                told["grad"])


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here")
def test_javascript_reads_hexadecimals(tmp_path):
    """One digit of one of them is enough."""
    text = golden.FILE.read_text("utf-8")
    right = cases("pair", "dpo")[0].value[0].hex()
    wrong = tmp_path / "golden.json"
    assert right == "0x1.3dee1508f4189p-1" and text.count(right) >= 1
    wrong.write_text(text.replace(right, "0x1.3dee1508f4188p-1"), "utf-8")
    run = subprocess.run(["node", HERE / "golden_dpo.mjs", wrong], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "ordinary: the decimals are not the hexadecimals" in run.stdout


@pytest.mark.parametrize(("language", "name"), [
    ("cpp", "golden_dpo.cpp"), ("rust", "golden_dpo.rs"), ("js", "golden_dpo.mjs")])
def test_the_page_shows_the_programs_lines(language, name):
    program, page = (HERE / name).read_text("utf-8"), PAGE.read_text("utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 2
    assert all(block in program for block in blocks)
    assert f"](../tests/{name})" in page
    assert max(map(len, program.splitlines())) <= 120


def test_the_page_shows_what_is_printed():
    """A JSON case, wrapped; the same case as lines"""
    page = PAGE.read_text("utf-8")
    shown, = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert json.loads(shown) in [{"seam": seam, **case} for seam, case in raw("pair", "dpo")]
    shown, = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert shown in ["".join(f"{line}\n" for line in lines(case)) for case in cases("pair", "dpo")]
    for seam in SEAMS:
        assert f"| `{seam}` |" in page
