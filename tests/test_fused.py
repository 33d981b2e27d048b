import tracemalloc

import numpy as np
import pytest

from dpo_numpy import fused, readings
from dpo_numpy.check import check_gradient
from dpo_numpy.fused import head_logp, head_logp_grad, token_logp_grad
from dpo_numpy.readings import token_logp

V, D = 7, 3
DTYPES = [np.float32, np.float64, np.longdouble, np.complex128]


def some(rng, lead=(), dtype=float, N=5, T=6):
    logits = (3 * rng.normal(size=(*lead, N, T, V))).astype(dtype)
    mask = rng.random((N, T)) < 0.6
    mask[:, 0] = False
    mask[0, 1:] = True  # rows that follow one another, and rows with gaps
    return logits, rng.integers(V, size=(N, T)), mask, rng.normal(size=logits.shape[:-1]).astype(dtype)


def heads(rng, dtype=float, N=5, T=6):
    _, tokens, mask, dvalue = some(rng, (), dtype, N, T)
    hidden, head = (rng.normal(size=shape).astype(dtype) for shape in ((N, T, D), (D, V)))
    return hidden, head, tokens, mask, dvalue


# ---- one pass is two passes

@pytest.mark.parametrize("block", [V, 3 * V, 1 << 17])
@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_token_logp_grad_of_any_logits_is_token_logp_and_its_pullback(dtype, lead, block, rng, monkeypatch):
    """To the last bit where rows are shifted: the same operations, in another order of blocks."""
    monkeypatch.setattr(readings, "BLOCK", block)
    logits, tokens, mask, dvalue = some(rng, lead, dtype)
    logits[..., -1] = -40 - logits[..., -1]  # nothing is both larger than -32 and less than 32
    logits[..., 0, 2, 3] = 400  # a certain token
    logits[..., 0, 3, 1] = -np.inf
    value, pullback = token_logp(logits, tokens, mask)
    found, dlogits = token_logp_grad(logits, tokens, mask, dvalue)
    assert found.dtype == dlogits.dtype == dtype
    assert np.array_equal(found, value)
    assert np.array_equal(dlogits, pullback(dvalue))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_number_has_all_its_digits(dtype, inplace, rng):
    """Relative errors: an exponential of 3 units, a sum of V, and six roundings; from certainty to e^-63"""
    logits, tokens, mask, dvalue = some(rng, dtype=dtype, N=400)
    logits *= rng.choice([0, 1, 5], size=(400, 6, 1)).astype(dtype)
    logits[0, 2:4] = -31  # nearly certain, and nearly impossible
    logits[0, [2, 3], [tokens[0, 3], tokens[0, 4] - 1]] = 31
    logits = logits.clip(-31, 31)
    exact, pullback = token_logp(logits.astype(np.longdouble), tokens, mask)
    slopes = pullback(dvalue.astype(np.longdouble))
    hidden = logits.copy()  # times the identity: the same logits
    for value, dlogits in (token_logp_grad(logits, tokens, mask, dvalue, out=logits if inplace else None),
                           head_logp_grad(hidden, np.eye(V, dtype=dtype), tokens, mask, dvalue)[:2],
                           (head_logp(hidden, np.eye(V, dtype=dtype), tokens, mask)[0], slopes)):
        assert -1e-25 < exact[mask].max() < 0
        assert exact[mask].min() < -60
        assert (abs(value - exact) <= 16 * np.finfo(dtype).eps * abs(exact)).all()
        assert (abs(dlogits - slopes) <= 16 * np.finfo(dtype).eps * abs(slopes)).all()


@pytest.mark.parametrize("far", [-700, -33, 33, 700, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("inplace", [False, True])
def test_one_logit_far_away(far, inplace, rng):
    """float32 holds neither e^700 nor e^-700, and no softmax a NaN"""
    logits, tokens, mask, dvalue = some(rng, dtype=np.float32)
    logits[0, 2, 3] = far
    with np.errstate(invalid="ignore"):
        value, pullback = token_logp(logits, tokens, mask)
        slopes = pullback(dvalue)
        found, dlogits = token_logp_grad(logits, tokens, mask, dvalue, out=logits if inplace else None)
    assert np.array_equal(found, value, equal_nan=True)
    assert np.array_equal(dlogits, slopes, equal_nan=True)


@pytest.mark.parametrize("full", [True, False])
def test_out_may_be_anything_that_fits_and_the_logits_too(full, rng):
    logits, tokens, mask, dvalue = some(rng)
    mask = np.broadcast_to(np.arange(6) > 0, mask.shape) if full else mask
    value, dlogits = token_logp_grad(logits, tokens, mask, dvalue)
    room = np.full_like(logits, np.nan)
    assert token_logp_grad(logits, tokens, mask, dvalue, out=room)[1] is room
    assert np.array_equal(room, dlogits)
    again, same = token_logp_grad(logits, tokens, mask, dvalue, out=logits)
    assert same is logits
    assert np.array_equal(logits, dlogits)
    assert np.array_equal(again, value)


def test_logits_of_any_layout(rng):
    logits, tokens, mask, dvalue = some(rng)
    for other in (np.asfortranarray(logits), np.repeat(logits, 2, axis=-1)[..., ::2]):
        assert np.array_equal(token_logp_grad(other, tokens, mask, dvalue)[1],
                              token_logp_grad(logits, tokens, mask, dvalue)[1])


def test_nothing_scored(rng):
    logits, tokens, mask, dvalue = some(rng)
    value, dlogits = token_logp_grad(logits, tokens, np.zeros_like(mask), dvalue)
    assert not value.any()
    assert not dlogits.any()
    hidden, head, tokens, mask, dvalue = heads(rng)
    for found in head_logp_grad(hidden, head, tokens, np.zeros_like(mask), dvalue):
        assert not found.any()
    value, pullback = head_logp(hidden, head, tokens, np.zeros_like(mask))
    assert not value.any()
    assert not any(part.any() for part in pullback(dvalue))


# ---- the head

@pytest.mark.parametrize("cells", [1, V, 4 * V, 1 << 23])
@pytest.mark.parametrize("dtype", DTYPES)
def test_head_is_the_product_and_its_pullbacks(dtype, cells, rng, monkeypatch):
    monkeypatch.setattr(fused, "TILE", 3)
    hidden, head, tokens, mask, dvalue = heads(rng, dtype)
    wide = np.promote_types(dtype, np.longdouble)
    h, w = hidden.astype(wide), head.astype(wide)
    value, pullback = token_logp(h @ w, tokens, mask)
    dlogits = pullback(dvalue)
    expected = value, dlogits @ w.T, np.einsum("ntd,ntv->dv", h, dlogits)
    one = head_logp_grad(hidden, head, tokens, mask, dvalue, cells)
    first, back = head_logp(hidden, head, tokens, mask, cells)
    # at most 25 rows of D or V terms, each below 100
    tolerance = 25 * 100 * np.finfo(dtype).eps
    for found in (one, (first, *back(dvalue))):
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            assert a.shape == b.shape
            assert abs(a - b).max() < tolerance


def test_gradient_of_the_head_against_differences(rng):
    hidden, head, tokens, mask, dvalue = heads(rng, N=2, T=4)

    def loss(params):
        return (dvalue * head_logp(params["hidden"], params["head"], tokens, mask, 2 * V)[0]).sum()

    _, dhidden, dhead = head_logp_grad(hidden, head, tokens, mask, dvalue, 2 * V)
    check = check_gradient(loss, {"hidden": hidden, "head": head}, {"hidden": dhidden, "head": dhead}, rng)
    assert check.units < 10


def test_leading_axes_of_hidden(rng):
    hidden, head, tokens, mask, _ = heads(rng)
    both = np.stack([hidden, 2 * hidden])
    dvalue = rng.normal(size=both.shape[:-1])
    value, dhidden, dhead = head_logp_grad(both, head, tokens, mask, dvalue)
    parts = [head_logp_grad(h, head, tokens, mask, d) for h, d in zip(both, dvalue, strict=True)]
    assert abs(value - np.stack([part[0] for part in parts])).max() < 1e-13
    assert abs(dhidden - np.stack([part[1] for part in parts])).max() < 1e-13
    assert abs(dhead - parts[0][2] - parts[1][2]).max() < 1e-13


# ---- threads, memory, operations

def test_any_number_of_threads_gives_the_same_bits(rng, threading, monkeypatch):
    monkeypatch.setattr(readings, "BLOCK", 4 * V)
    logits, tokens, mask, dvalue = some(rng, N=40)
    hidden, head, *others = heads(rng, N=40)
    found = []
    for n in (1, 2, 5):
        threading(n)
        found.append([*token_logp_grad(logits, tokens, mask, dvalue), *head_logp_grad(hidden, head, *others),
                      head_logp(hidden, head, *others[:2])[0]])
    for other in found[1:]:
        assert all(map(np.array_equal, other, found[0]))


@pytest.mark.parametrize("n", [1, 2])
def test_one_pass_holds_nothing_but_the_gradient(n, threading, rng):
    """A few numbers a row, and the buffers of NumPy's ufuncs: at most 1/8 of a block a thread"""
    threading(n)
    logits = rng.normal(size=(1, 257, 8192))
    tokens, mask = rng.integers(8192, size=(1, 257)), np.arange(257)[None] > 0
    peak = allocated(lambda: token_logp_grad(logits, tokens, mask, np.ones(257), out=np.empty_like(logits)))
    assert peak - logits.nbytes < n * 8 * readings.BLOCK / 8


@pytest.mark.parametrize("n", [1, 2])
def test_the_head_holds_one_block_of_logits(n, threading, rng):
    threading(n)
    hidden, head = rng.normal(size=(1, 513, 8)), rng.normal(size=(8, 4096))
    tokens, mask, cells = rng.integers(4096, size=(1, 513)), np.arange(513)[None] > 0, 1 << 18
    logits = 8 * 513 * 4096
    # a block of logits, hidden states and their gradient, gradient and tile of the head, numbers a row
    room = 8 * (cells + 4 * hidden.size + 3 * head.size + 20 * 513)
    assert room < logits / 5
    assert allocated(lambda: head_logp_grad(hidden, head, tokens, mask, np.ones(513), cells)) < room
    assert allocated(lambda: head_logp(hidden, head, tokens, mask, cells)) < room


def test_one_exponential_a_logit(rng, monkeypatch):
    """Forward and backward together; the plain way takes two, and a matrix product less than the second pass"""
    taken, products = [], []
    exp, matmul = np.exp, np.matmul

    def counting(x, *args, **how):
        taken.append(np.size(x))
        return exp(x, *args, **how)

    def multiplied(a, b, **how):
        products.append(a.shape[0] * a.shape[1] * b.shape[1])
        return matmul(a, b, **how)

    logits, tokens, mask, dvalue = some(rng, N=40)
    hidden, head, *others = heads(rng, N=40)
    monkeypatch.setattr(np, "exp", counting)
    monkeypatch.setattr(np, "matmul", multiplied)

    def count(work):
        taken.clear(), products.clear()
        work()
        return sum(taken), sum(products)

    rows = mask.sum()
    assert count(lambda: token_logp_grad(logits, tokens, mask, dvalue)) == (rows * V, 0)
    _, pullback = token_logp(logits, tokens, mask)
    assert count(lambda: token_logp(logits, tokens, mask)) == (rows * V, 0)
    assert count(lambda: pullback(dvalue)) == (rows * V + rows, 0)
    rows = others[1].sum()
    assert count(lambda: head_logp_grad(hidden, head, *others)) == (rows * V, 3 * rows * D * V)
    assert count(lambda: head_logp(hidden, head, *others[:2])[1](others[2])) == (2 * rows * V, 4 * rows * D * V)


def allocated(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---- errors

@pytest.mark.parametrize(("out", "said"), [
    (np.empty((5, 6, V), np.float32), r"^out is float32 \(5, 6, 7\), C-contiguous: True; expected float64 \(5, 6, 7\)"),
    (np.empty((5, 6, 8)), r"^out is float64 \(5, 6, 8\), C-contiguous: True; expected float64 \(5, 6, 7\), C-contig"),
    (np.empty((V, 6, 5)).T, r"^out is float64 \(5, 6, 7\), C-contiguous: False; expected float64 \(5, 6, 7\), C-co"),
])
def test_out_that_does_not_fit(out, said, rng):
    with pytest.raises(ValueError, match=said):
        token_logp_grad(*some(rng), out=out)


def test_slopes_of_a_faint_dvalue_keep_their_digits(rng):
    """1e-30 over Σ eˣ is no number in float32, times eˣ it is"""
    logits, tokens, mask, _ = some(rng, dtype=np.float32)
    logits = 31 + logits / 10
    exact = token_logp(logits.astype(float), tokens, mask)[1](np.full((5, 6), 1e-30))
    for dvalue in (np.full((5, 6), 1e-30), np.where(mask & (tokens > 2), 1e-30, 0)):
        _, dlogits = token_logp_grad(logits, tokens, mask, dvalue)
        kept = np.where((dvalue != 0)[:, 1:, None], exact[:, :-1], 0)
        assert (abs(dlogits[:, :-1] - kept) <= 64 * np.finfo(np.float32).eps * abs(kept)).all()


@pytest.mark.parametrize("whole", [2, np.full((5, 6), 2), np.uint8(2)])
def test_dvalue_may_be_whole_numbers(whole, rng):
    logits, tokens, mask, _ = some(rng)
    hidden, head, *others = heads(rng)
    for function, given in ((token_logp_grad, (logits, tokens, mask)), (head_logp_grad, (hidden, head, *others[:2]))):
        for found, expected in zip(function(*given, whole), function(*given, 2.0), strict=True):
            assert np.array_equal(found, expected)


def test_types_that_do_not_fit(rng):
    logits, tokens, mask, dvalue = some(rng)
    hidden, head, *others = heads(rng)
    for dtype in (np.int64, np.float16):
        with pytest.raises(ValueError, match=rf"^logits have dtype {np.dtype(dtype)}; expected NumPy's floating-point"):
            token_logp_grad(logits.astype(dtype), tokens, mask, dvalue)
        with pytest.raises(ValueError, match=rf"^logits have dtype {np.dtype(dtype)}; expected"):
            head_logp(hidden.astype(dtype), head.astype(dtype), *others[:2])
    for function in (lambda d: token_logp_grad(logits, tokens, mask, d),
                     lambda d: head_logp_grad(hidden, head, *others[:2], d)):
        for d in (None, "1", 1j * dvalue):
            with pytest.raises(ValueError, match=r"^dvalue has dtype .*; expected numbers like the value's, float64$"):
                function(d)
    fixed = np.empty_like(logits)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out is read-only; expected"):
        token_logp_grad(logits, tokens, mask, dvalue, out=fixed)


@pytest.mark.parametrize("cells", [0, -5, 1.5, None, True])
def test_cells_that_are_not_a_number_of_logits(cells, rng):
    *given, dvalue = heads(rng)
    for function in (lambda: head_logp(*given, cells), lambda: head_logp_grad(*given, dvalue, cells)):
        with pytest.raises(ValueError, match=rf"^cells is {cells!r}; expected a whole number of logits, at least 1$"):
            function()


@pytest.mark.parametrize("of", [some, heads])
def test_dvalue_that_does_not_fit(of, rng):
    function = token_logp_grad if of is some else head_logp_grad
    *given, _ = of(rng)
    with pytest.raises(ValueError, match=r"^dvalue has shape \(4,\); expected that of the value, \(5, 6\)$"):
        function(*given, np.ones(4))


@pytest.mark.parametrize("function", [head_logp, head_logp_grad])
@pytest.mark.parametrize(("change", "said"), [
    (lambda h, w: (h, w[:2]), r"^hidden is float64 \(5, 6, 3\) and head float64 \(2, 7\); expected \(..., T, D\) and"),
    (lambda h, w: (h, w.astype(np.float32)), r"and head float32 \(3, 7\); expected .* of one dtype$"),
    (lambda h, w: (h, w[None]), r"and head float64 \(1, 3, 7\); expected"),
    (lambda h, w: (h[0, 0], w), r"^hidden is float64 \(3,\) and"),
    (lambda h, w: (h[:4], w), r"^logits \(4, 6, 7\), tokens \(5, 6\) and mask \(5, 6\) do not fit"),
    (lambda h, w: (h, w[:, :2]), r"^tokens hold id \d under the mask; expected ids from 0 to 1$"),
])
def test_hidden_and_head_that_do_not_fit(function, change, said, rng):
    hidden, head, tokens, mask, dvalue = heads(rng)
    with pytest.raises(ValueError, match=said):
        function(*change(hidden, head), tokens, mask, *([dvalue] if function is head_logp_grad else []))
