import mpmath
import numpy as np
import oracle
import pytest
from mpmath import mp, mpf

from dpo_numpy import numerics
from dpo_numpy.numerics import (
    at_most_0,
    bernoulli_kl,
    exact_product,
    exp_minus_1_minus,
    exp_times,
    kl_terms,
    log_loss,
    log_losses,
    log_normalizer,
    log_sigmoid,
    log_sigmoid_difference,
    log_softmax,
    row_sums,
    sigmoid,
    sigmoid_difference,
    sigmoids,
    signed_gap,
)

DTYPES = [np.float32, np.float64, np.longdouble]
TINY = [1e-30, 1e-12, 1e-5, 0.01, 0.1, 0.2499, 0.2501, 0.3, 1.0]
NAIVE = {
    log_sigmoid: lambda z: -mpmath.log(1 + mpmath.exp(-z)),
    sigmoid: lambda z: 1 / (1 + mpmath.exp(-z)),
    exp_minus_1_minus: lambda d: mpmath.exp(d) - 1 - d,
}
# How far one ulp of the argument moves the answer is what no code can better; NumPy's functions are good to 1 ulp in
# float64 and longdouble and to 2.5 in float32 (its vectorized exp), and there are up to four roundings in a row.
ULPS = {np.float32: 6, np.float64: 4, np.longdouble: 4}
# eᵈ - 1 - d loses |d|/(eᵈ - 1 - d) <= 9 where the series ends, at -1/4.
MORE = {exp_minus_1_minus: 3}


def points(rng, dtype, largest=700):
    largest = min(largest, 80) if dtype == np.float32 else largest
    size = 10 ** rng.uniform(-30, np.log10(largest), 60)
    return np.concatenate([size, -size, TINY, np.negative(TINY), [0.0]]).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f", NAIVE)
def test_values(f, dtype):
    z = points(np.random.default_rng(0), dtype)
    ours = f(z)
    assert ours.dtype == dtype
    with mp.workdps(400):
        for x, y in zip(z, ours, strict=True):
            exact = NAIVE[f](oracle.number(x))
            ulp = oracle.number(np.finfo(dtype).eps) * abs(exact) + oracle.number(np.finfo(dtype).smallest_subnormal)
            moved = abs(NAIVE[f](oracle.number(x + np.spacing(x))) - exact)
            assert abs(oracle.number(y) - exact) <= MORE.get(f, 1) * ULPS[dtype] * ulp + moved, (x, y)


@pytest.mark.parametrize("dtype", [*DTYPES, complex])
def test_what_one_exponential_gives(dtype):
    """bit for bit what each function gives by itself"""
    z = points(np.random.default_rng(0), np.float64).astype(dtype)
    z = np.concatenate([z + 1e-9j, z - 1e-9j]) if dtype is complex else z
    for ours, alone in [(sigmoids(z), (sigmoid(z), sigmoid(-z))),
                        (log_loss(z), (-log_sigmoid(z), sigmoid(-z))),
                        (log_losses(z)[0], (-log_sigmoid(z), -log_sigmoid(-z))),
                        (log_losses(z)[1], sigmoids(z))]:
        np.testing.assert_array_equal(ours, alone)
        assert np.asarray(ours).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_most_0(dtype):
    z = np.array([-np.inf, -2.0, 0.0, 3.0, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(at_most_0(z), np.array([-np.inf, -2, 0, 0, 0, np.nan], dtype))
    for step in (1e-20j, -1e-20j):
        np.testing.assert_array_equal(at_most_0(np.array([-1.0, 0.0, 0.5, 2.0]) + step), [-1 + step, 0, 0, 0])


# ---- differences of two arguments: exact at any distance, relative to what one ulp of each moves

def coin(x):
    return 1 / (1 + mpmath.exp(-x))


PARTS = {sigmoid_difference: sigmoids, log_sigmoid_difference: log_loss, bernoulli_kl: log_losses}
OF_TWO = {
    sigmoid_difference: lambda x, y: coin(x) - coin(y),
    log_sigmoid_difference: lambda x, y: mpmath.log(coin(x)) - mpmath.log(coin(y)),
    bernoulli_kl: lambda x, y: (coin(x) * mpmath.log(coin(x) / coin(y)) + coin(-x) * mpmath.log(coin(-x) / coin(-y))),
}


def of_two(f, x, y):
    return f(PARTS[f](x), PARTS[f](y), x - y)


def two(rng, dtype):
    """far, near, nearer than the digits of either, equal, and of opposite signs"""
    x = rng.normal(size=60) * 10 ** rng.uniform(-3, 1.5, 60)
    gap = rng.normal(size=60) * 10 ** rng.uniform(-14, 1.5, 60)
    y = np.concatenate([x[:40] + gap[:40], -x[40:50], x[50:]])
    return x.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f", OF_TWO)
def test_differences(f, dtype):
    x, y = two(np.random.default_rng(1), dtype)
    ours = of_two(f, x, y)
    assert ours.dtype == dtype
    with mp.workdps(100):
        for a, b, z in zip(x, y, ours, strict=True):
            at, to = oracle.number(a), oracle.number(b)
            exact = OF_TWO[f](at, to)
            ulps = [oracle.number(np.spacing(abs(c))) for c in (a, b)]
            moved = abs(OF_TWO[f](at + ulps[0], to) - exact) + abs(OF_TWO[f](at, to + ulps[1]) - exact)
            ulp = oracle.number(np.finfo(dtype).eps) * abs(exact)
            # a dozen roundings of what is a product; those of two logarithms, where they are further than 1 apart
            assert abs(oracle.number(z) - exact) <= 12 * ulp + 2 * moved, (f.__name__, a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_difference_known_to_more_digits(dtype):
    """x - y = 1e-20 is nothing next to x = 3, and is told apart."""
    x, d = np.array([3.0, -3.0], dtype), np.array([1e-20, -1e-20], dtype)
    slope = sigmoid(x) * sigmoid(-x)
    np.testing.assert_allclose(sigmoid_difference(sigmoids(x), sigmoids(x), d), slope * d, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_signed_gap(dtype):
    """x - y where it is known better than x and y are"""
    d = np.array([-700.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 700.0], dtype) / (8 if dtype == np.float32 else 1)
    y = np.full_like(d, 3)
    x = y * np.exp(d)
    with mp.workdps(700):
        for ours, z in zip(signed_gap(x, y, d), d, strict=True):
            exact = 3 * (mpmath.exp(oracle.number(z)) - 1)
            # the exponential that made x is good to 2.5 ulp in float32, expm1 too; three more roundings
            assert abs(oracle.number(ours) - exact) <= 8 * oracle.number(np.finfo(dtype).eps) * abs(exact)


def test_differences_at_far_ends():
    x, y = np.array([1e4, -1e4, 1e4, -800.0]), np.array([-1e4, 1e4, 2e4, -801.0])
    assert of_two(sigmoid_difference, x, y).tolist() == [1, -1, 0, 0]
    assert of_two(log_sigmoid_difference, x, y).tolist() == [1e4, -1e4, 0, 1]
    assert of_two(bernoulli_kl, x, y).tolist() == [1e4, 1e4, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_series_is_as_long_as_it_need_be(dtype):
    """At |d| = ¼ the first term that is left out is below a sixteenth of a rounding, the last that is not is above."""
    terms = len(numerics._taylor(np.dtype(dtype)))
    least, last = (2 * mpf(0.25) ** k / mpmath.factorial(k + 2) for k in (terms, terms - 1))
    assert least <= oracle.number(np.finfo(dtype).eps) / 16 < last


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_times(dtype):
    top = float(np.log(np.finfo(dtype).max)) if dtype != np.longdouble else 11356.0
    k, x = np.array([0.0, 1.0, 1.05 * top, -3.0], dtype), np.array([5.0, -2.0, np.exp(dtype(-0.1 * top)), 0.0], dtype)
    ours = exp_times(k, x)
    assert ours.dtype == dtype
    for a, b, y in zip(k, x, ours, strict=True):
        with mp.workdps(60):
            exact = mpmath.exp(oracle.number(a)) * oracle.number(b)
            # half of k is exact; each root is good to an ulp or 2.5
            assert abs(oracle.number(y) - exact) <= 8 * oracle.number(np.finfo(dtype).eps) * abs(exact)
    assert exp_times(np.array([9 * top], dtype), np.array([-1e-20], dtype)).tolist() == [-np.inf]
    assert exp_times(np.array([9 * top], dtype), np.array([0.0], dtype)).tolist() == [0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [0.1, -1.9, 1e-30, 3.0, 1 / 3, 1e5])
def test_exact_product(factor, dtype):
    n = np.array([0.0, 1, -3, 99999, 2**24], dtype)
    high, low = exact_product(factor, n)
    assert high.dtype == low.dtype == dtype
    for a, b, whole in zip(high, low, n, strict=True):
        with mp.workdps(60):
            left = oracle.number(a) + oracle.number(b) - oracle.number(factor) * oracle.number(whole)
            # float32 holds 48 of the 77 bits; the others hold all of them
            assert abs(left) <= (abs(oracle.number(a)) * mpf(2) ** -48 if dtype == np.float32 else 0)


def test_exact_products_at_the_ends():
    high, low = exact_product(1e150, np.array([3.0, 99999.0]))
    assert [int(a) + int(b) for a, b in zip(high, low, strict=True)] == [3 * int(1e150), 99999 * int(1e150)]
    assert [x.tolist() for x in exact_product(-1e308, np.array([8.0]))] == [[-np.inf], [0]]
    assert [x.tolist() for x in exact_product(1e38, np.float32([8.0]))] == [[np.inf], [0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_ends(dtype):
    """Where the naive forms give -inf, 0 and nan; a warning is an error here."""
    z = np.array([-1e4, -200, 200, 1e4], dtype)
    assert log_sigmoid(z)[:2].tolist() == [-1e4, -200]
    assert (log_sigmoid(z)[2] == 0) == (dtype == np.float32)
    assert sigmoid(z)[[0, 3]].tolist() == [np.exp(z[0]), 1]
    assert log_softmax(z)[:3].tolist() == (z - z[3])[:3].tolist()
    assert -np.finfo(float).tiny <= log_softmax(z)[3] <= 0


def test_infinities():
    ends = np.array([-np.inf, np.inf])
    assert log_sigmoid(ends).tolist() == [-np.inf, 0]
    assert sigmoid(ends).tolist() == [0, 1]
    assert exp_minus_1_minus(ends[:1]).tolist() == [np.inf]
    assert log_softmax(np.array([0.0, -np.inf, 0.0])).tolist() == [-np.log(2), -np.inf, -np.log(2)]


@pytest.mark.parametrize("f", [log_sigmoid, sigmoid, exp_minus_1_minus, *[
    lambda z, f=f, k=k: f(z)[k] for f in (sigmoids, log_loss) for k in (0, 1)]])
def test_nan_propagates(f):
    assert np.isnan(f(np.array([np.nan, 0.0]))).tolist() == [True, False]


def test_nan_propagates_along_the_vocabulary():
    assert np.isnan(log_softmax(np.array([[0.0, np.nan], [0.0, 0.0]]))).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(("f", "slope"), [(log_sigmoid, lambda z: sigmoid(-z)), (exp_minus_1_minus, np.expm1),
                                          (sigmoid, lambda z: sigmoid(z) * sigmoid(-z))])
def test_complex_step(f, slope):
    """Im f(z + ih)/h is the derivative to rounding, the real part the function (NumPy's complex log1p rounds at 1)."""
    z = points(np.random.default_rng(1), np.float64, largest=200)  # the slope times the step is far from underflow
    # a dozen complex operations at half an ulp in each part; expm1(d) - d loses up to nine times that (MORE)
    room = 12 * np.finfo(float).eps
    for h in (1e-100, -1e-100):  # at 0 too, where two branches meet, from either side
        stepped = f(z + 1j * h)
        np.testing.assert_allclose(stepped.imag / h, slope(z), rtol=room * 9, atol=1e-180)
        np.testing.assert_allclose(stepped.real, f(z), rtol=room * 9, atol=np.finfo(float).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 300.0])
def test_log_softmax(dtype, spread):
    logits = (np.random.default_rng(2).normal(size=(8, 5)) * spread).astype(dtype)
    ours = log_softmax(logits)
    assert ours.dtype == dtype
    with mp.workdps(800):
        for x, y in zip(logits, ours, strict=True):
            terms = [oracle.number(v) for v in x]
            total = mpmath.log(sum(map(mpmath.exp, terms)))
            for mine, term in zip(y, terms, strict=True):
                # x - top is rounded once, at most by half an ulp of either logit; what follows in units of the answer
                ulps = ULPS[dtype] * abs(term - total) + abs(term) + max(map(abs, terms))
                assert abs(oracle.number(mine) - (term - total)) <= oracle.number(np.finfo(dtype).eps) * ulps


def test_a_nearly_certain_outcome_keeps_its_digits():
    assert log_softmax(np.array([50.0, 0.0]))[0] == pytest.approx(-np.exp(-50), rel=4 * np.finfo(float).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_normalizer_overwrites(dtype):
    x = np.array([[1.0, 3.0, 2.0], [0.0, -np.inf, 0.0]], dtype)
    before = x.copy()
    top, rest = log_normalizer(x)
    assert top.tolist() == [3, 0]
    np.testing.assert_allclose(rest, np.log(np.exp(before - top[:, None]).sum(axis=1)), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(x, np.exp(before - top[:, None]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_normalizer_may_leave_its_input_alone(dtype):
    x = np.random.default_rng(5).normal(size=(2, 3, 5)).astype(dtype)
    before, out, below, best = x.copy(), np.empty_like(x), np.empty((6, 5), dtype), np.empty(6, np.intp)
    top, rest = log_normalizer(x, out, below, best)
    np.testing.assert_array_equal(below, x.reshape(6, 5) - top[:, None])
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(x.reshape(-1)[best], x.reshape(6, 5).max(axis=1))
    for found, expected in zip((top, rest), log_normalizer(x), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("V", [1, 3, 512, 513, 5000])
@pytest.mark.parametrize("dtype", [*DTYPES, np.complex128])
def test_row_sums(dtype, V):
    x = np.random.default_rng(6).random(size=(2, 3, V)).astype(dtype)
    x = x + 1j * x[::-1] if dtype is np.complex128 else x
    found = row_sums(x)
    with mp.workdps(40):
        for at in np.ndindex(2, 3):
            exact = sum(map(oracle.number, x[at].real))
            # V roundings of numbers up to V, in any order; they err to either side
            room = 4 * V**1.5 * float(np.finfo(dtype).eps)
            assert abs(oracle.number(found[at].real) - exact) < room
    if dtype is np.complex128:
        np.testing.assert_allclose(found.imag, found[::-1].real, rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_what_log_normalizer_leaves(dtype):
    logits = np.random.default_rng(3).normal(size=(2, 3, 5)).astype(dtype)
    p = logits.copy()
    _, rest = log_normalizer(p)
    # 5 terms, each good to a few ulp, summed in 4 roundings
    np.testing.assert_allclose((p * np.exp(-rest).reshape(2, 3, 1)).sum(axis=-1), 1, rtol=10 * np.finfo(dtype).eps)


@pytest.mark.parametrize("spread", [1e-9, 1e-3, 1.0, 2.0, 30.0, 1e3])
def test_kl_terms(spread):
    rng = np.random.default_rng(4)
    start = rng.normal(size=(5, 4))
    log_q, log_p = log_softmax(start), log_softmax(start + spread * rng.normal(size=(5, 4)))
    terms, slopes = kl_terms(log_q, log_p)
    with mp.workdps(1000):
        for lq, lp, term, slope in zip(log_q.flat, log_p.flat, terms.flat, slopes.flat, strict=True):
            p, q = mpmath.exp(oracle.number(lp)), mpmath.exp(oracle.number(lq))
            d = oracle.number(lp) - oracle.number(lq)
            exact = p - q - q * d
            # the exponentials are good to an ulp of theirs and of their arguments; 27 = 3 * 9 as above
            room = mpf(np.finfo(float).eps) * (30 + 2 * abs(oracle.number(lq)) + 2 * abs(oracle.number(lp)))
            assert abs(mpf(float(term)) - exact) <= room * exact + mpf(5e-324)
            assert abs(mpf(float(slope)) - (p - q)) <= room * abs(p - q) + mpf(5e-324)
            assert term >= 0


def test_kl_terms_at_the_ends():
    """q = 0 by -inf and by underflow; p far above q; p = 0; neither."""
    log_q = np.array([-np.inf, -1000.0, -720.0, -1.0, -np.inf, -1000.0])
    log_p = np.array([np.log(0.5), np.log(0.5), -0.5, -np.inf, -np.inf, -np.inf])
    terms, slopes = kl_terms(log_q, log_p)
    np.testing.assert_allclose(terms, [0.5, 0.5, np.exp(-0.5), np.inf, 0, 0], rtol=4 * np.finfo(float).eps)
    np.testing.assert_allclose(slopes, [0.5, 0.5, np.exp(-0.5), -np.exp(-1), 0, 0], rtol=4 * np.finfo(float).eps)


@pytest.mark.parametrize("function", [sigmoid, log_sigmoid, sigmoids, log_loss, log_losses])
def test_a_plain_number_will_do(function):
    np.testing.assert_array_equal(function(0.3), function(np.array(0.3)))


def test_everything_public_is_tested_here():
    assert set(numerics.__all__) <= set(globals())
