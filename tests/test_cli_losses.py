"""`dpo-numpy losses`, `show` and `golden`: every loss is listed, shown and exported; what is wrong is one sentence."""

import inspect
import json
import re
import unicodedata
import warnings

import numpy as np
import pytest

from dpo_numpy import cli
from dpo_numpy.cli import losses as listing
from dpo_numpy.cli import show
from dpo_numpy.conformance.golden import cases
from dpo_numpy.losses import LOSSES
from dpo_numpy.surrogates import SURROGATES

FACTORIES = LOSSES | SURROGATES
HYPER = {name: {key: p.default for key, p in inspect.signature(f).parameters.items()} for name, f in FACTORIES.items()}


def said(capsys, *words, code=0):
    """standard output, or the sentence on standard error"""
    assert cli.main([*map(str, words)]) == code
    out, err = capsys.readouterr()
    assert (err if code == 0 else out) == ""
    return err if code else out


# ---- losses

def test_the_table_has_a_row_for_every_loss(capsys):
    lines = said(capsys, "losses").splitlines()
    rows = [line.split()[0] for line in lines if re.match(r"  \w", line)]
    assert sorted(rows) == sorted(FACTORIES)
    sections = [line for line in lines[:-1] if re.match(r"\w", line)]
    assert sections == ["pairs, against a reference", "pairs, without a reference",
                        "single responses, desired or not", "rankings of K responses",
                        "reward models: they read rewards",
                        "policy gradients: the tokens of K sampled responses"]
    assert lines[-1].startswith(f"{len(FACTORIES)} losses.")
    assert lines.count("") == 2 * len(sections)  # around sections, not between rows


def test_the_table_fits_the_screen(capsys):
    lines = said(capsys, "losses").splitlines()
    shown = [sum(not unicodedata.combining(x) for x in line) for line in lines]
    assert max(shown) <= 120
    assert not [line for line in lines if line != line.rstrip()]


def test_the_table_says_it_in_the_docstrings_words(capsys):
    out = said(capsys, "losses")
    for words in (
        "  dpo                L = -log σ(β h)    ",
        "Rafailov et al. 2023, arXiv:2305.18290\n",
        "L = -(1-ε) log σ(z) - ε log σ(-z),  z = β (ℓ_w/|y_w| - ℓ_l/|y_l|) - γ\n",
        "Mitchell 2023, ericmitchell.ai/cdpo.pdf\n",
        "Bradley & Terry 1952\n",
    ):
        assert words in out
    assert "∂L" not in out.replace("∂L/∂D", "")  # derivatives are for `show`


@pytest.mark.parametrize("name", FACTORIES)
def test_every_entry_is_complete(name):
    found = listing.entry(name)
    assert found.formula.startswith("L = ")
    assert len(found.formula) > len("L = ")
    assert found.what[0].isupper()
    assert found.what in " ".join(inspect.getdoc(FACTORIES[name]).split()) or name.startswith("sft")
    assert (found.paper == "") == name.startswith("sft")
    assert re.fullmatch(r".+ (19|20)\d\d(, (arXiv:\d{4}\.\d{5}|\S+\.pdf))?|", found.paper)
    loss = FACTORIES[name]()
    assert (found.reads, found.needs, found.coupled) == (loss.reads, loss.needs, loss.coupled)
    assert found.hyperparameters == HYPER[name]


@pytest.mark.parametrize(("first", "formula", "words"), [
    ("L = x,   ∂L/∂x = 1", "L = x", ""),
    ("L = x: the thing itself", "L = x", "The thing itself"),
    ("L = x + y: `x() + y()`", "L = x + y", ""),
    ("L = φ(β'h),   ∂L/∂h = g,   g = 2,   φ(x) = x²,   β' = 2", "L = φ(β'h),  φ(x) = x²,  β' = 2", ""),
    ("L = log z,   g = 1,   z = k;   k = 3", "L = log z,  z = k,  k = 3", ""),
    ("L = x where right,   -x where wrong;   ∂L/∂x = ∓1", "L = x where right,  -x where wrong", ""),
])
def test_a_formula_keeps_what_its_letters_stand_for(first, formula, words):
    assert listing._formula(first) == (formula, words)


def test_sections_follow_from_what_a_loss_takes():
    some = {"dpo": "reference", "ld_dpo": "reference", "simpo": "free", "sft": "free", "kto": "single",
            "pl_dpo": "ranking", "bt_rm": "reward", "pl_rm": "reward", "rpo": "reference", "cpo": "free",
            **dict.fromkeys(SURROGATES, "token")}
    assert {name: listing.kind(FACTORIES[name]()) for name in some} == some


def test_the_table_for_programs(capsys):
    found = json.loads(said(capsys, "losses", "--json"))
    assert sorted(each["name"] for each in found) == sorted(FACTORIES)
    dpo = found[0]
    assert dpo["hyperparameters"] == {"beta": 0.1}
    assert (dpo["reads"], dpo["needs"], dpo["coupled"]) == (["logp"], ["ref_logp"], False)
    assert set(dpo) == set(listing.Entry._fields)


# ---- show

@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_shows_without_a_warning(name, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = said(capsys, "show", name)
    assert out.startswith(f"{LOSSES[name]()}\n\n{inspect.getdoc(LOSSES[name])}\n\nreads ")
    for key in HYPER[name]:
        assert re.search(rf"^{key}  +\S+ \(.+\)$", out, re.M)
    head, *rows = [line for line in out.splitlines() if line.startswith(" " * 8)][-10:]
    assert head.split()[0] == "x"
    numbers = np.array([row.split() for row in rows], float)
    assert np.isfinite(numbers).all()
    assert (np.diff(numbers[:, 0]) > 0).all()
    assert numbers[4, 0] == 0
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("name", SURROGATES)
def test_losses_of_tokens_are_shown_in_words(name, capsys):
    out = said(capsys, "show", name)
    assert out.startswith(f"{SURROGATES[name]()}\n\n{inspect.getdoc(SURROGATES[name])}\n\nreads ")
    for key in HYPER[name]:
        assert re.search(rf"^{key}  +\S+ \(.+\)$", out, re.M)
    assert out.splitlines()[-1].split()[0] == list(HYPER[name])[-1]


@pytest.mark.parametrize("name", LOSSES)
def test_slopes_are_those_of_the_values(name):
    """Along the way, dL/dx is half the chosen's slope less half the rejected's; rankings and labels alike."""
    hyper = {**HYPER[name], "alpha": 0.0} if name == "beta_dpo" else HYPER[name]  # no gradient flows through its M
    found = show.curve(name, hyper, points=2001)
    for label, value in found.value.items():
        slopes = [found.slopes[f"∂/∂ {label}"]] if label != "value" else list(found.slopes.values())
        share = [1.0] if label != "value" else np.linspace(0.5, -0.5, len(slopes))
        slope = sum(x * y for x, y in zip(slopes, share, strict=True))
        measured = np.gradient(value, found.x)
        smooth = np.ones(len(value), bool)
        smooth[[0, -1]] = False
        # a kink is seen at the two points beside it
        kinks = abs(np.diff(slope)) > 0.3 * abs(slope).max()
        smooth[:-1] &= ~kinks
        smooth[1:] &= ~kinks
        # second order in the step, and values rounded to eps of themselves
        step = found.x[1] - found.x[0]
        third = abs(np.gradient(np.gradient(slope, found.x), found.x))[smooth].max()
        room = step**2 / 6 * third * 2 + 4 * np.finfo(float).eps * abs(value).max() / step
        assert smooth.sum() > 1990
        assert abs(measured - slope)[smooth].max() <= room + 1e-15


def test_show_takes_hyper_parameters_and_tells_defaults(capsys):
    out = said(capsys, "show", "simpo", "--beta", "2.5", "--scale=ratio")
    assert out.startswith("simpo(beta=2.5, gamma=1, scale=ratio, eps=0)\n")
    assert re.search(r"^beta +2\.5 \(a finite number above 0; default: 2\)$", out, re.M)
    assert re.search(r"^gamma +1 \(a finite number\)$", out, re.M)
    assert re.search(r"^scale +ratio \('absolute' or 'ratio'; default: absolute\)$", out, re.M)
    assert re.search(r"^eps +0 \(at least 0 and below 0\.5\)$", out, re.M)
    out = said(capsys, "show", "apo_zero", "--plus-one", "true")
    assert re.search(r"^plus_one +true \(true or false; default: false\)$", out, re.M)


def test_show_knows_the_reference(capsys):
    """dpo at h = 0 is log 2 and its slopes are ∓β/2; a single response has two labels, a ranking three places"""
    row = [line.split() for line in said(capsys, "show", "dpo", "--beta=0.2").splitlines() if line.split()[:1] == ["0"]]
    assert row == [["0", "0.693147", "-0.1", "0.1"]]
    out = said(capsys, "show", "kto")
    assert all(word in out for word in ("∂/∂ desired", "∂/∂ undesired", "z0 = 0"))
    out = said(capsys, "show", "infonca")
    assert all(word in out for word in ("∂/∂ best", "∂/∂ middle", "∂/∂ worst", "score = 3 2 1"))


def test_show_goes_as_far_as_it_is_told(capsys):
    out = said(capsys, "show", "dpo", "--span", "8")
    assert [line.split()[0] for line in out.splitlines()[-9:]] == ["-8", "-6", "-4", "-2", "0", "2", "4", "6", "8"]


@pytest.mark.parametrize("name", ["dpo", "kto", "pl_dpo", "pl_rm", "bt_rm", "f_dpo_chi2"])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_show_draws(name, suffix, tmp_path, capsys):
    path = tmp_path / f"picture{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = said(capsys, "show", name, "--output", path)
    assert out.endswith(f"\nfigure: {path}\n")
    start = path.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if suffix == ".png" else b"<?xml" in start


def test_infinite_values_are_shown_and_drawn(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = said(capsys, "show", "f_dpo_chi2", "--span", "3000", "--output", tmp_path / "far.png")
    assert " inf " in out


def test_the_pictures_curves_are_told_apart():
    figure = show.picture(show.curve("pl_dpo", HYPER["pl_dpo"], points=21))
    value, slope = figure.axes
    assert len(value.lines) == 2  # and the line at 0
    assert [text.get_text() for text in slope.get_legend().get_texts()] == ["best", "middle", "worst"]
    drawn = slope.lines[:3]
    assert len({line.get_color() for line in drawn}) == len({line.get_linestyle() for line in drawn}) == 3
    assert drawn[0].get_color() == show.CHOSEN
    assert drawn[2].get_color() == show.REJECTED


# ---- golden

@pytest.mark.parametrize("name", ["dpo", "kto", "aot", "ld_dpo", "orpo", "grpo"])
def test_golden_prints_the_cases(name, capsys):
    out = said(capsys, "golden", name)
    found = json.loads(out)
    assert [(each["seam"], each["loss"], each["what"]) for each in found] == [
        (case.seam, case.loss, case.what) for case in cases(loss=name)]
    assert len(out.splitlines()) == len(found) + 2
    assert set(found[0]) == {"seam", "loss", "what", "hyper", "inputs", "value", "grad", "hex"}


def test_golden_of_a_seam(capsys):
    found = json.loads(said(capsys, "golden", "dpo", "--seam", "batch"))
    assert {each["seam"] for each in found} == {"batch"}
    assert "logits" in found[0]["inputs"]
    assert json.loads(said(capsys, "golden", "logp"))[0]["seam"] == "sequence"


def read_lines(text):
    """what `--format lines` says, as JSON says it; floats are their bits, in hexadecimal"""
    found = []
    for line in text.splitlines():
        place, *words = line.split(" ")
        if place == "case":
            case = dict(zip(("seam", "loss", "what"), words, strict=True))
            case |= {"hyper": {}, "inputs": {}, "grad": {}}
        elif place == "end":
            assert not words
            found.append(case)
        else:
            shape, *numbers = words
            shape = [] if shape in ("scalar", "word") else [int(n) for n in shape.split("x")]
            for n in reversed(shape[1:]):
                assert len(numbers) % n == 0
                numbers = [numbers[at:at + n] for at in range(0, len(numbers), n)]
            assert len(numbers) == (shape[0] if shape else 1)
            where, key = (case, place) if place == "value" else (case[place.split(".")[0]], place.split(".")[1])
            assert key not in where
            where[key] = numbers if shape else numbers[0]
    return found


def as_lines_have_it(x):
    if isinstance(x, dict):
        return {key: as_lines_have_it(each) for key, each in x.items()}
    if isinstance(x, list):
        return [as_lines_have_it(each) for each in x]
    return x.hex() if isinstance(x, float) else str(int(x)) if isinstance(x, (bool, int)) else x


@pytest.mark.parametrize("name", [*FACTORIES, "logp"])
def test_golden_as_lines_says_the_same(name, capsys):
    """All that stands in the JSON, but for the hexadecimals beside it"""
    found = json.loads(said(capsys, "golden", name))
    text = said(capsys, "golden", name, "--format", "lines")
    assert text.isascii() and "  " not in text and " \n" not in text
    assert read_lines(text) == [as_lines_have_it({key: each[key] for key in each if key != "hex"}) for each in found]


def test_golden_as_lines_of_a_seam(capsys):
    text = said(capsys, "golden", "dpo", "--seam", "pair", "--format", "lines")
    assert text.splitlines()[:7] == [
        "case pair dpo ordinary",
        f"hyper.beta scalar {0.1.hex()}",
        "inputs.logp 3x2 " + " ".join(map(float.hex, (-12.3, -15.6, -48.2, -41.9, -3.14, -2.72))),
        "inputs.ref_logp 3x2 " + " ".join(map(float.hex, (-13.1, -14.9, -45.5, -43.7, -3.35, -3.05))),
        "value 3 " + " ".join(map(float.hex, cases("pair", "dpo")[0].value.tolist())),
        "grad.logp 3x2 " + " ".join(map(float.hex, cases("pair", "dpo")[0].grad["logp"].ravel().tolist())),
        "end"]
    assert text.count("\nend\n") == len(cases("pair", "dpo"))
    assert "\nhyper.reduction word mean\n" in said(capsys, "golden", "ipo", "--format", "lines")
    assert "\nhyper.detach scalar 0\n" in said(capsys, "golden", "kto_pair", "--format", "lines")


# ---- what is wrong

@pytest.mark.parametrize(("words", "sentence"), [
    (["show", "dpoo"], "no loss is called 'dpoo'; did you mean dpo? There are dpo, cdpo, "),
    (["golden", "ktoo"], "no loss is called 'ktoo'; did you mean kto? There are dpo, cdpo, "),
    (["show", "zzzzz"], "no loss is called 'zzzzz'. There are"),
    (["show"], "required: LOSS"),
    (["golden"], "required: LOSS"),
    (["losses", "dpo"], "unrecognized arguments: dpo"),
    (["show", "dpo", "--gamma", "1"], "dpo takes no --gamma; it takes --beta"),
    (["show", "sft_mean", "--beta", "1"], "sft_mean takes no --beta; it takes no hyper-parameters"),
    (["show", "dpo", "--beta", "-1"], "beta is -1.0; expected a finite number above 0"),
    (["show", "dpo", "--beta", "much"], "beta is 'much'; expected a number"),
    (["show", "ipo", "--reduction", "max"], "reduction is 'max'; expected 'sum' or 'mean'"),
    (["show", "dpo", "--span", "0"], "span is 0.0; expected a finite number above 0"),
    (["show", "dpo", "--span", "nan"], "span is nan; expected a finite number above 0"),
    (["show", "dpo", "--output", "dpo.gif"], "output is dpo.gif; expected a name that ends in .png, .svg or .pdf"),
    (["show", "dpo", "--output", "png"], "output is png; expected a name that ends in .png, .svg or .pdf"),
    (["show", "grpo", "--tau", "1"], "grpo takes no --tau; it takes --eps, --eps_high, --beta, --est"),
    (["show", "grpo", "--span", "1"], "grpo is a loss of tokens, shown in words; expected neither --span nor --output"),
    (["show", "kl", "--output", "kl.png"], "kl is a loss of tokens, shown in words; expected neither"),
    (["golden", "dpo", "--seam", "pairs"], "invalid choice: 'pairs'"),
    (["golden", "dpo", "--seam", "token"], "seam is 'token'; expected 'pair' or 'batch', where dpo has cases"),
    (["golden", "dpo", "--seam", "token", "--format", "lines"], "seam is 'token'; expected 'pair' or 'batch', where"),
    (["golden", "dpo", "--format", "csv"], "invalid choice: 'csv'"),
])
def test_what_makes_no_sense_is_one_sentence(words, sentence, capsys):
    err = said(capsys, *words, code=2)
    assert err.startswith("dpo-numpy: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    path = tmp_path / "nowhere" / "dpo.png"
    assert cli.main(["show", "dpo", "--output", str(path)]) == 2
    assert capsys.readouterr().err == f"dpo-numpy: output: {path} cannot be written: No such file or directory\n"
