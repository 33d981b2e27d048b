"""The benchmarks' arithmetic, their refusals and their page; every side of ours at a small size."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import dpo_numpy as dn  # noqa: E402
from benchmarks import harness, pictures, run  # noqa: E402
from benchmarks.cases import losses, ngrams  # noqa: E402
from benchmarks.harness import Case, Run, Unequal, compare, in_rounds, quartiles, ratios, text_of  # noqa: E402

CASES = run.cases()


class Clock:
    """Time passes when `spend` is called, and never else."""

    def __init__(self):
        self.now, self.calls = 0.0, 0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now, self.calls = self.now + seconds, self.calls + 1


# Arithmetic


@pytest.mark.parametrize(("worker", "told"), [
    ("numpy", ["2", "2", "2"]), ("numpy/1", ["1", "1", "1"]), ("numpy/blas 1", ["2", "1", "2"])])
def test_a_worker_is_told_how_many_threads(worker, told):
    found = harness.threads_of(worker, 2)
    assert [found[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")] == told


def test_a_stretch_is_the_time_of_so_many_runs():
    clock = Clock()
    assert harness.stretch(lambda: clock.spend(0.25), 8, clock) == 2 and clock.calls == 8


@pytest.mark.parametrize(("seconds", "count"), [(1e-6, 50_000), (0.0125, 4), (0.04, 1), (0.2, 1), (3.0, 1)])
def test_a_count_fills_a_stretch(seconds, count):
    clock = Clock()
    found, once = harness.calibrate(lambda: clock.spend(seconds), clock)
    assert found == pytest.approx(count, rel=1e-6) and once == pytest.approx(seconds)


def test_in_each_round_another_side_is_first_and_each_has_a_pause():
    asked = []
    sides = {label: lambda label=label: asked.append(label) or len(asked) for label in "abc"}
    seconds = in_rounds(sides, 4, pause=lambda: asked.append("-"))
    assert "".join(asked) == "-a-b-c" "-b-c-a" "-c-a-b" "-a-b-c"
    assert seconds == {"a": [2, 12, 16, 20], "b": [4, 8, 18, 22], "c": [6, 10, 14, 24]}


def outer(n):
    np.sort(np.arange(n, 0, -1))
    inner(n)


def inner(n):
    for _ in range(n):
        pass


def test_a_profile_tells_functions_from_what_they_call():
    shares = harness.profile(lambda: outer(1_000_000), 3)
    assert next(iter(shares)) == "test_benchmarks.inner" and shares["test_benchmarks.inner"] > 0.3
    assert "sort" in shares and "test_benchmarks.outer" not in shares  # which does nothing itself
    assert 0.9 < sum(shares.values()) <= 1.001
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_a_ratio_is_of_one_round():
    ours, peer = [1.0, 10.0, 2.0, 4.0, 1.0], [3.0, 20.0, 8.0, 4.0, 5.0]  # 3, 2, 4, 1, 5
    assert ratios(peer, ours) == [2, 3, 4]
    assert quartiles(peer)[1] / quartiles(ours)[1] != 3  # as of the medians it would be
    with pytest.raises(ValueError, match="zip"):
        ratios(peer[1:], ours)


@pytest.mark.parametrize(("seconds", "text"), [
    (61.04, "61.0 s"), (0.9996, "1.00 s"), (0.0012, "1.20 ms"), (5.123e-4, "512 µs"), (9.9996e-4, "1.00 ms"),
    (4.2e-8, "42.0 ns"), (4.2e-10, "0.420 ns")])
def test_seconds_are_told_to_three_digits(seconds, text):
    assert text_of(seconds) == text


# Numbers are compared

CASE = Case("a name", "a group", {"B": 1000, "seed": 0}, targets={"torch": 2.0}, rtol=1e-6, atol=1e-9, small={"B": 2})
NUMBERS = {"value": np.array([1.0, -2.0]), "grad": np.zeros((2, 2))}


@pytest.mark.parametrize(("theirs", "said"), [
    ({**NUMBERS, "value": np.array([1.0, -2.0 + 3e-6])}, r"value is off by 3e-06, where numpy is up to 2"),
    ({**NUMBERS, "grad": np.full((2, 2), 2e-9)}, "grad is off by 2e-09"),
    ({**NUMBERS, "value": np.array([1.0, np.nan])}, "value is not finite"),
    ({**NUMBERS, "value": np.array([[1.0, -2.0]])}, r"value has shape \(1, 2\); numpy gives \(2,\)"),
    ({"value": NUMBERS["value"]}, r"gives \['value'\]; numpy gives \['grad', 'value'\]"),
])
def test_unequal_numbers_are_refused_by_name(theirs, said):
    with pytest.raises(Unequal, match="a group, a name, torch: " + said):
        compare(CASE, "torch", theirs, NUMBERS)


def test_equal_numbers_are_not_refused():
    near = {"value": NUMBERS["value"] * (1 + 9e-7), "grad": NUMBERS["grad"] + 9e-10}
    compare(CASE, "torch", near, NUMBERS)


def test_parameters_may_be_small():
    assert CASE.parameters() == {"B": 1000, "seed": 0} and CASE.parameters(small=True) == {"B": 2, "seed": 0}
    assert CASE.sides == ["numpy", "torch"]


# A whole measurement, in processes

MODULE = '''
import time
from benchmarks.harness import Case, Run
CASES = []

def side(pause, value, units=1):
    return lambda x: Run(lambda: time.sleep(pause), lambda: {"x": [x + value]}, units, {"note": "n"})

def closed():
    open(f"{__file__}.closed", "a").write("x")

def absent(x):
    import no_such_library_at_all

def broken(x):
    return 1 / 0

SIDES = {"numpy": ("a", side(0.02, 0, units=2)), "slow": ("a", side(0.06, 0)), "off": ("a", side(0, 1)),
         "bound": ("a", lambda x: Run(lambda: None, None, close=closed)), "absent": ("b", absent),
         "broken": ("b", broken)}
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "some_cases.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "some_cases"
    sys.modules.pop("some_cases", None)


def test_a_case_is_measured(module):
    targets = {"slow": 2.0, "bound": None, "absent": 1.0}
    with harness.Workers(threads=1) as workers:
        result = harness.measure(module, Case("c", "g", {"x": 1}, targets=targets), workers, rounds=3)
        with pytest.raises(Unequal, match="g, c, off: x is off by 1"):
            harness.measure(module, Case("c", "g", {"x": 1}, targets={"off": None}), workers, rounds=1)
        with pytest.raises(harness.Failed, match="ZeroDivisionError"):
            harness.measure(module, Case("c", "g", {"x": 1}, targets={"broken": None}), workers, rounds=1)
        with pytest.raises(harness.Failed, match="no_such_library_at_all"):
            harness.measure(module, Case("c", "g", {"x": 1}, ours="absent"), workers, rounds=1)
        assert set(workers.known) == {"a", "b"}
        assert len({worker.process.pid for worker in workers.known.values()}) == 2
    assert not any(worker.process.is_alive() for worker in workers.known.values())
    assert json.loads(json.dumps(result)) == result
    assert result["seconds"]["numpy"][1] >= 0.01 and result["seconds"]["slow"][1] >= 0.06
    assert result["peers"]["slow"]["ratio"][1] > 3.5  # 6, less what a sleep takes longer; 3 without units
    assert result["peers"]["bound"]["ratio"][1] < 0.1
    assert "no_such_library_at_all" in result["peers"]["absent"]["missing"]
    assert Path(sys.modules[module].__file__ + ".closed").read_text() == "x"
    assert result["rounds"] == 3 and result["params"] == {"x": 1} and result["facts"]["slow"] == {"note": "n"}


# The page


def result_of(name, group="losses", note=None, **peers):
    facts = {"numpy": {"note": note}} if note else {}
    return {"module": "benchmarks.cases.imports", "name": name, "group": group, "ours": "numpy", "rounds": 15,
            "seconds": {"numpy": [1e-4, 2e-4, 3e-4], **{label: [1e-3, 1.2e-3, 2e-3] for label in peers}},
            "peers": peers, "facts": facts, "params": {"B": 32}, "load": 0.25, "date": "2026-01-02",
            "profile": {"ngram.logp": 0.625}}


def results_of(*members):
    return {"machine": {"cpu": "C", "cores": 2, "threads": 2}, "versions": {"numpy": "2"},
            "cases": {f"{member['group']}: {member['name']}": member for member in members}}


def test_a_table_says_what_was_found():
    text = run.tables(results_of(
        result_of("dpo", torch={"ratio": [5.5, 6.0, 61.0], "target": 3.0}, jax={"missing": "no", "target": 1.0}),
        result_of("ipo", note="n", torch={"ratio": [0.2, 0.25, 0.3], "target": 0.6},
                  jax={"ratio": [1, 1, 1], "target": None})))["table: losses"]
    assert text.splitlines() == [
        "| case | ours | peer | its time | its / ours | target |  | note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| dpo | 200 µs | torch | 1.20 ms | 6.0 (5.5 to 61) | 3.0 | met |  |",
        "| dpo | 200 µs | jax | not installed |  |  |  |  |",
        "| ipo | 200 µs | torch | 1.20 ms | 0.25 (0.2 to 0.3) | 0.6 | **missed** | n |",
        "| ipo | 200 µs | jax | 1.20 ms | 1.0 (1.0 to 1.0) |  |  |  |",
        "", "Of 2 targets 1 are met."]


PAGE = """# By hand
<!-- table: losses -->
old
<!-- end -->
by hand <!-- table: steps -->
kept
<!-- end -->
"""


def test_what_is_written_by_hand_stays():
    page = run.written(PAGE, {"table: losses": "| new |"})
    assert page == PAGE.replace("old", "| new |")
    assert run.written(page, {"table: losses": "| new |"}) == page
    with pytest.raises(ValueError, match=r"no marker for table: logits; expected <!-- table: logits --> \.\.\. "):
        run.written(PAGE, {"table: logits": "x"})


def test_results_of_a_part_leave_the_others():
    before = {"g: a": 1, "g: gone": 2, "h: b": 3}
    known = ["h: b", "h: c", "g: a"]
    assert list(run.merged(before, {"h: c": 9}, known, False).items()) == [
        ("h: b", 3), ("h: c", 9), ("g: a", 1), ("g: gone", 2)]
    assert run.merged(before, {"h: c": 9}, known, True) == {"h: b": 3, "h: c": 9, "g: a": 1}


def test_the_page_is_what_the_results_say():
    results = json.loads(run.RESULTS.read_text("utf-8"))
    page = run.PAGE.read_text("utf-8")
    assert run.written(page, run.tables(results)) == page
    first = next(iter(results["cases"].values()))
    first["seconds"][first["ours"]] = [77.7, 77.7, 77.7]
    assert run.written(page, run.tables(results)) != page


def test_a_curve_is_of_ratios_by_size():
    def at(B, ratio):
        return {**result_of(f"{B}", torch={"ratio": ratio, "target": None}), "params": {"B": B}}

    members = [at(64, [3, 4, 5]), at(32, [1, 2, 3]), at(64, [5, 6, 7])]
    assert pictures.curves(members, "B", lambda result, label: label) == {
        "torch": [(32, [1, 2, 3]), (64, [4, 5, 6])]}
    assert pictures.curves(members, "V", lambda result, label: label) == {}
    assert pictures.curves(members, "B", lambda result, label: None) == {}


# The cases


def test_cases_have_names_of_their_own_and_sides():
    names = [(case.group, case.name) for _, case in CASES]
    assert len(set(names)) == len(names)
    assert {module for module, _ in CASES} == set(run.modules())
    for module, case in CASES:
        assert set(case.sides) <= sys.modules[module].SIDES.keys() and case.targets


def test_cases_are_chosen_by_group_or_name():
    chosen = run.cases(["imports", "no such"])
    assert chosen and {case.group for _, case in chosen} == {"imports"}


@pytest.mark.parametrize(("module", "case"), [pytest.param(*found, id=f"{found[1].group}: {found[1].name}")
                                              for found in CASES])
def test_our_side_builds_and_its_numbers_are_finite(module, case):
    built = sys.modules[module].SIDES[case.ours][1](**case.parameters(small=True))
    assert isinstance(built, Run) and built.units >= 1
    for name, x in (built.numbers() if built.numbers else {}).items():
        assert np.asarray(x).size and np.isfinite(x).all(), name
    built.work()
    if built.close:
        built.close()


def of_loss(loss, B, **ratios):
    peers = {label: {"ratio": [x / 2, x, 2 * x], "target": 2.0} for label, x in ratios.items()}
    return {**result_of(f"{loss}, B = {B}", **peers), "params": {"loss": loss, "B": B}}


def test_the_table_of_losses_has_a_row_a_size_and_a_row_a_loss():
    members = [of_loss("dpo", 32, torch=4.0, TRL=20.0), of_loss("ipo", 32, torch=1.0), of_loss("sppo", 32, torch=3.0),
               of_loss("dpo", 1024, torch=1.5)]
    assert losses.table(members).splitlines() == [
        "| B | peer | losses | least | median | most | target | met |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 32 | torch | 3 | 1.0 | 3.0 | 4.0 | 2.0 | 2 |",
        "| 32 | TRL | 1 | 20 | 20 | 20 | 2.0 | 1 |",
        "| 1,024 | torch | 1 | 1.5 | 1.5 | 1.5 | 2.0 | 0 |",
        "",
        "| loss | ours, B = 32 | torch | TRL | ours, B = 1,024 | torch | TRL |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| dpo | 200 µs | 4.0 (2.0 to 8.0) | 20 (10 to 40) | 200 µs | **1.5 (0.75 to 3.0)** |  |",
        "| ipo | 200 µs | **1.0 (0.5 to 2.0)** |  |  |  |  |",
        "| sppo | 200 µs | 3.0 (1.5 to 6.0) |  |  |  |  |"]


def test_a_group_that_is_drawn_shows_its_picture():
    def parts(group, module):
        member = {**of_loss("dpo", 32, torch=4.0), "group": group, "module": f"benchmarks.cases.{module}"}
        return run.tables(results_of(member))[f"table: {group}"]

    picture = "(benchmarks/scaling_losses.png)"
    assert parts("losses", "losses").count(picture) == 1 and picture not in parts("imports", "imports")
    assert "scaling_" not in parts("logits", "logits")  # whose picture is of another group


def test_pictures_are_drawn_where_there_are_curves(tmp_path):
    members = [{**of_loss("dpo", B, torch=4.0), "module": "benchmarks.cases.losses"} for B in (32, 64)]
    pictures.draw(results_of(*members, result_of("x", "imports")), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scaling_losses.png"]


def test_growth_is_the_slope_of_logarithms():
    def at(entries):
        seconds = 1e-9 * max(entries, ngrams.FEWEST / 2) ** 1.25  # below, calls are what costs
        return {"facts": {"numpy": {"entries": entries}}, "seconds": {"numpy": [0, seconds, 0]}}

    assert ngrams.growth([at(1 << k) for k in range(6, 24, 2)]) == pytest.approx(1.25)


def test_every_loss_has_its_case_in_torch_too():
    named = {case.params["loss"] for _, case in CASES if case.group == "losses"}
    assert named == set(dn.LOSSES)
    source = Path(losses.__file__).read_text("utf-8").partition("def by_torch")[0]
    assert {name for name in dn.LOSSES if f'"{name}": ' not in source} == set()


# The command line

@pytest.mark.parametrize(("words", "said"), [
    (["--only", "nonsense"], "--only nonsense: no group and no name of a case holds that"),
    (["--only", "head", "--threads", "0"], "--threads is 0; expected at least 1"),
    (["--only", "head", "--rounds", "-1"], "--rounds is -1; expected at least 1"),
    (["--only", "head"], "the results kept are of another machine, of other versions or threads"),
])
def test_what_makes_no_sense_is_refused_before_anything_is_measured(words, said, monkeypatch, capsys, tmp_path):
    kept = tmp_path / "results.json"
    kept.write_text(json.dumps({"machine": {"cpu": "another"}, "versions": {}, "cases": {"head: one pass": {}}}))
    monkeypatch.setattr(run, "RESULTS", kept)
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
