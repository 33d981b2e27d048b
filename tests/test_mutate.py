"""The mutation script: what it changes and leaves alone, that explanations fit the code, and that mutants die."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import mutate
import pytest
from mutate import STAGES, Mutant, Run, Verdict, complaints, explanation, marked, mutants, table, unanswered

SCRIPT = Path(mutate.__file__)


def changed(source, **options):
    """The last line of each mutant"""
    found = mutants("m", source, **options)
    return [mutant.applied(source.encode()).decode().splitlines()[-1].strip() for mutant in found]


@pytest.mark.parametrize(("source", "expected"), [
    ("a + b", {"(a - b)"}),
    ("a - b", {"(a + b)", "(b - a)"}),
    ("a * b", {"(a / b)", "(-(a * b))"}),
    ("a / (b * c)", {"(a * (b * c))", "a / ((b / c))", "(-(a / (b * c)))"}),
    ("a ** 2", {"a", "a ** 1", "a ** 3"}),
    ("-a", {"a"}),
    ("not a", {"a"}),
    ("~a & b", {"a & b", "(~a | b)"}),
    ("x[..., 0]", {"x[..., 1]"}),
    ("1.0", {"0.0", "2.0"}),
    ("0.5", {"0.25", "1.5"}),
    ("0.1", {"1.1"}),
    ("True", {"False"}),
    ("a < b <= c", {"(a <= b <= c)", "(a < b < c)"}),
    ("a > b", {"(a >= b)"}),
    ("a == 'paper'", {"(a != 'paper')", "a == ''"}),
    ("a is not None", {"(a is None)"}),
    ("a and b or c", {"((a and b) and c)", "(a or b) or c"}),
    ("min(a)", {"max(a)"}),
    ("x.max(axis=0)", {"x.min(axis=0)", "x.max(axis=1)"}),
    ("np.minimum(a, b)", {"np.maximum(a, b)", "np.minimum(b, a)"}),
    ("abs(a)", {"a"}),
    ("f(a, b)", {"f(b, a)"}),
    ("f(a, b, c)", {"f(b, a, c)"}),
    ("np.where(c, a, 'x')", {"np.where(c, 'x', a)", "np.where(c, (-a), 'x')"}),
    ("np.exp(a)", {"np.exp((-a))"}),
    ("one_of('name', x, 'sum')", {"one_of('name', x, '')", "one_of(x, 'name', 'sum')"}),
    ("a if b else c", {"a if (not b) else c"}),
    ("[a for a in b if c]", {"[a for a in b if (not c)]"}),
    ("f'{1}'", set()),
    ("'words'", set()),
    ("Ã = a + b", {"Ã = (a - b)"}),
    ("a += b", {"a -= b"}),
    ("__all__ = ['a' + 'b']", set()),
    ("raise ValueError(a + b)", set()),
    ("x: Literal[1] = 2", {"x: Literal[1] = 1", "x: Literal[1] = 3"}),
    ("@f(1)\ndef g(a: 'b' = 'c', *, d: int = 0) -> f[1]: 'é' 'words'", {
        "def g(a: 'b' = '', *, d: int = 0) -> f[1]: 'é' 'words'",
        "def g(a: 'b' = 'c', *, d: int = 1) -> f[1]: 'é' 'words'"}),
    ("lambda a: a + (\n    b)", {"lambda a: (a - b)"}),
])
def test_what_is_changed(source, expected):
    found = changed(source)
    assert len(set(found)) == len(found)
    assert set(found) == expected


@pytest.mark.parametrize(("source", "expected"), [
    ("return a", {"return (-a)"}),
    ("return a, (b, c)", {"return (-a), (b, c)"}),
    ("return make(a)", set()),
])
def test_what_is_handed_back_changes_sign(source, expected):
    assert set(changed(f"def f():\n    {source}")) == expected


def test_sentences_are_changed_on_demand():
    assert changed("raise ValueError(a + b)", sentences=True) == ["raise ValueError((a - b))"]


def test_a_mutant_says_what_and_where():
    source = "x = 1\nclass A:\n    def f(self):\n        if self.a  <  3:\n            return [i*2 for i in g]\n"
    first, *found = mutants("m", source)
    assert str(first) == "m: x = ⟦1 → 0⟧"
    assert [str(mutant) for mutant in found if "if " in mutant.shown] == [
        "m.A.f: if self.a ⟦< → <=⟧ 3: ...", "m.A.f: if ⟦ → not ⟧self.a < 3: ...", "m.A.f: if self.a < ⟦3 → 4⟧: ..."]
    assert "m.A.f: return [i ⟦* → /⟧ 2 for i in g]" in map(str, found)
    long = mutants("m", f"y = {'a' * 60}(1, {'b' * 60})")[0]
    assert str(long) == f"m: …{'a' * 42}(⟦1, {'b' * 60} → {'b' * 60}, 1⟧)"


def test_marks():
    assert marked("a - b", "a + b") == "a ⟦- → +⟧ b"
    assert marked("f(-1)", "f(1)") == "f(⟦- → ⟧1)"
    assert marked("abs(x) + y", "x + y") == "⟦abs(x) → x⟧ + y"
    assert marked("x[10]", "x[11]") == "x[⟦10 → 11⟧]"
    assert marked("a <= b", "a < b") == "a ⟦<= → <⟧ b"
    assert marked("aa", "a") == "⟦aa → a⟧"


@pytest.mark.parametrize("module", ["scores", "numerics"])
def test_every_mutant_is_another_program(module):
    source = (mutate.ROOT / "dpo_numpy" / f"{module}.py").read_text("utf-8")
    programs = {ast.dump(ast.parse(mutant.applied(source.encode()))) for mutant in mutants(module, source)}
    assert len(programs) == len(mutants(module, source)) > 50
    assert ast.dump(ast.parse(source)) not in programs


# ---- explanations

def test_every_explanation_fits_a_mutant_and_is_a_sentence():
    assert unanswered(mutate.every()) == []
    for why, pieces in mutate.EXPLAINED:
        assert pieces
        assert re.fullmatch(r".+[.]", why, re.DOTALL)
        assert all("⟦" in piece for _, piece in pieces)


def mutant(shown="a ⟦- → +⟧ b", function="f"):
    return Mutant("scores", function, 0, 1, b"", shown)


def test_explanations_are_by_text(monkeypatch):
    monkeypatch.setattr(mutate, "EXPLAINED", [("why.", [("scores.f", "⟦- → +⟧")]), ("not.", [("scores.g", "⟦- → +⟧")])])
    assert explanation(mutant()) == "why."
    assert explanation(mutant("a ⟦- → *⟧ b")) == explanation(mutant(function="h")) == ""
    assert unanswered([mutant()]) == ["scores.g: ⟦- → +⟧"]
    assert unanswered([mutant(), mutant(function="g")]) == []


def test_complaints(monkeypatch):
    monkeypatch.setattr(mutate, "EXPLAINED", [("why.", [("scores.f", "⟦- → +⟧")])])
    explained, other = mutant(), mutant(function="g")
    fine = Run([Verdict(explained, "", "", 60.0), Verdict(other, "golden", "AssertionError", 0.0)], 1.0, 3.0, 2)
    assert complaints(fine) == []
    assert table(fine).splitlines()[-1] == "| all | 2 | 1 | 0 | 0 | 0 | 1 | 0 | 1.0 |"
    assert "None." in mutate.page(fine) and "why.\n\n- `scores.f: a ⟦- → +⟧ b`" in mutate.page(fine)
    wrong = Run([Verdict(explained, "tests", "test_x", 60.0), Verdict(other, "", "", 0.0)], 1.0, 3.0, 2)
    assert complaints(wrong) == ["explained, but killed by test_x: scores.f: a ⟦- → +⟧ b",
                                 "survives: scores.g: a ⟦- → +⟧ b"]
    assert table(wrong).splitlines()[-1] == "| all | 2 | 0 | 1 | 0 | 0 | 0 | 1 | 1.0 |"
    monkeypatch.setattr(mutate, "EXPLAINED", [(mutate.LAST_BITS, [("scores.f", "⟦- → +⟧")])])
    assert complaints(Run([Verdict(explained, "tests", "test_x", 60.0)], 1.0, 3.0, 2)) == []


# ---- trials

FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # pytest-xdist has threads


def script(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": ""})


def test_mutants_die_and_the_repository_stays_as_it_is():
    """Some mutants of -log σ against golden.json, in another process: this one has the package imported"""
    before = {path: path.read_bytes() for path in (mutate.ROOT / "dpo_numpy").glob("*.py")}
    done = script("--golden", "--workers", "1",
                  "--match", "numerics.log_loss: return (_log_loss(z, e), _one_where(np.signbit(z.real), e)")
    assert done.stderr == ""
    assert re.search(r"\| `numerics` \| ([4-9]) \| \1 \| 0 \|", done.stdout)
    assert done.returncode == 0
    assert before == {path: path.read_bytes() for path in (mutate.ROOT / "dpo_numpy").glob("*.py")}


def test_a_mutant_may_live():
    """One more term of a series that is long enough: one of those explained"""
    done = script("--golden", "--workers", "1", "--match", "for k in range(2, ⟦25 → 26⟧)")
    assert re.search(r"^survives \(\d+ s\) numerics\._taylor: ", done.stdout, re.MULTILINE)
    assert "| `numerics` | 1 | 0 | 0 | 0 | 0 | 1 | 0 |" in done.stdout
    assert done.returncode == 0


@FORKS
def test_an_endless_mutant_is_ended(tmp_path):
    def endless(said):
        mutate.allow(0.1)
        while True:
            pass

    assert not mutate.forked(endless, tmp_path / "said", wall=30)
    assert not mutate.forked(lambda said: __import__("time").sleep(30), tmp_path / "said", wall=0.1)
    assert mutate.forked(lambda said: said.write_text("done"), tmp_path / "said", wall=30)
    assert (tmp_path / "said").read_text() == "done"


@FORKS
def test_what_fails_in_a_fork_is_told(tmp_path):
    def breaks(said):
        raise KeyError("why")

    assert not mutate.forked(breaks, tmp_path / "said", wall=30)
    assert "KeyError: 'why'" in (tmp_path / "said.error").read_text("utf-8")


def test_stages_are_told_apart():
    assert STAGES == ("golden", "tests", "oracle", "rest")
    assert mutate.stage_of("tests/test_losses.py::test_gradients_are_exact_to_four_units[float64-dpo]") == "oracle"
    assert mutate.stage_of("tests/test_losses.py::test_shapes[dpo]") == "tests"
    assert mutate.stage_of("tests/test_gradient.py::test_x") == "rest"
    for module in mutate.MODULES:
        for stage in STAGES[1:]:
            assert all((mutate.ROOT / path).is_file() for path in mutate.files(module, stage))
