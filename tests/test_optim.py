"""Optimizers against the papers' recursions in plain Python numbers, and against closed forms on a quadratic."""

import math
import re

import numpy as np
import pytest

import dpo_numpy as dn
from dpo_numpy.optim import global_norm

EPS = np.finfo(np.float64).eps


def message(text):
    return pytest.raises(ValueError, match=re.escape(text))


def run(optimizer, grads, start=0.0):
    """Where a scalar goes under given gradients"""
    params, state, path = {"x": np.array([start])}, optimizer.init({"x": np.array([start])}), []
    for g in grads:
        delta, state = optimizer.update({"x": np.array([g])}, state, params)
        params = {"x": params["x"] + delta["x"]}
        path.append(float(params["x"][0]))
    return path


GRADS = [0.5, -2.0, 0.0, 1e-3, 3.0, -0.25, 1.0]


def by_hand_sgd(lr):
    x = 0.0
    for g in GRADS:
        x -= lr * g
        yield x


def by_hand_momentum(lr, decay):
    x = m = 0.0
    for g in GRADS:
        m = decay * m + g
        x -= lr * m
        yield x


def by_hand_adam(lr, b1, b2, eps):
    x = m = v = 0.0
    for t, g in enumerate(GRADS, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        x -= lr * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
        yield x


@pytest.mark.parametrize(("optimizer", "by_hand"), [
    (dn.sgd(0.3), by_hand_sgd(0.3)),
    (dn.momentum(0.3), by_hand_momentum(0.3, 0.9)),
    (dn.momentum(0.3, decay=0.5), by_hand_momentum(0.3, 0.5)),
    (dn.momentum(0.3, decay=0.0), by_hand_sgd(0.3)),
    (dn.adam(0.3), by_hand_adam(0.3, 0.9, 0.999, 1e-8)),
    (dn.adam(0.3, b1=0.5, b2=0.7, eps=0.1), by_hand_adam(0.3, 0.5, 0.7, 0.1)),
    (dn.adam(0.3, b1=0.0), by_hand_adam(0.3, 0.0, 0.999, 1e-8)),
])
def test_recursions(optimizer, by_hand):
    np.testing.assert_allclose(run(optimizer, GRADS), list(by_hand), rtol=0, atol=16 * EPS)  # the path spans about 1


def test_sgd_on_a_quadratic_shrinks_by_1_minus_lr_a():
    x, optimizer = {"x": np.array([3.0])}, dn.sgd(0.2)
    state = optimizer.init(x)
    for _ in range(20):
        delta, state = optimizer.update({"x": 1.5 * x["x"]}, state, x)
        x = {"x": x["x"] + delta["x"]}
    assert x["x"][0] == pytest.approx(3 * (1 - 0.2 * 1.5) ** 20, rel=64 * EPS)


def test_momentum_on_a_quadratic_follows_the_characteristic_roots():
    """xₜ₊₁ = (1 + decay - lr a) xₜ - decay xₜ₋₁"""
    a, lr, decay = 1.5, 0.2, 0.6
    r1, r2 = np.roots([1, -(1 + decay - lr * a), decay])  # complex: the ball oscillates
    assert abs(r1.imag) > 0.1
    x0, x1 = 3.0, 3.0 * (1 - lr * a)
    c = np.linalg.solve([[1, 1], [r1, r2]], [x0, x1])
    x, optimizer = {"x": np.array([x0])}, dn.momentum(lr, decay)
    state = optimizer.init(x)
    for t in range(1, 30):
        delta, state = optimizer.update({"x": a * x["x"]}, state, x)
        x = {"x": x["x"] + delta["x"]}
        assert x["x"][0] == pytest.approx((c @ [r1**t, r2**t]).real, abs=1e-14)


def test_adam_under_a_constant_gradient_moves_lr_a_step():
    """m̂ = g and v̂ = g², whatever t: the bias corrections are what makes the first step count"""
    for g in (1e-3, -5.0):
        path = run(dn.adam(0.01, eps=1e-12), [g] * 50)
        np.testing.assert_allclose(path, -0.01 * np.sign(g) * np.arange(1, 51), rtol=2e-9)  # eps / g


def test_a_parameter_whose_gradient_is_always_0_does_not_move():
    for optimizer in (dn.sgd(1.0), dn.momentum(1.0), dn.adam(1.0)):
        assert run(optimizer, [0.0] * 5, start=1.25) == [1.25] * 5


def test_a_schedule_is_told_the_step_counted_from_0():
    told = []

    def lr(step):
        told.append(step)
        return [0.1, 0.2, 0.0, 0.4][step]

    assert run(dn.sgd(lr), [1.0] * 4) == pytest.approx([-0.1, -0.3, -0.3, -0.7], rel=4 * EPS)
    assert told == [0, 1, 2, 3]
    assert all(type(step) is int for step in told)
    for make in (dn.momentum, dn.adam):
        np.testing.assert_allclose(run(make(lambda step: 0.3), GRADS), run(make(0.3), GRADS), rtol=4 * EPS)
        assert run(make(lambda step: 0.3 / (step + 1)), GRADS) != run(make(0.3), GRADS)
    path = run(dn.adam(lambda step: float(step == 2)), [1.0] * 4)
    assert path[1] == 0
    assert path[2] == path[3] == pytest.approx(-1, rel=1e-6)


def test_clip_rescales_all_parameters_together_and_only_when_too_long():
    optimizer = dn.clip(dn.sgd(1.0), 1.0)
    params = {"a": np.zeros(2), "b": np.zeros((1, 1))}
    grad = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    delta, state = optimizer.update(grad, optimizer.init(params), params)
    np.testing.assert_allclose(delta["a"], [-0.6, 0], rtol=4 * EPS)
    np.testing.assert_allclose(delta["b"], [[-0.8]], rtol=4 * EPS)
    assert state["step"] == 1
    exact = {"a": np.array([0.6, 0.0]), "b": np.array([[0.8]])}
    for scale in (1e-3, 1.0 - EPS):
        small = {k: scale * g for k, g in exact.items()}
        delta, _ = optimizer.update(small, optimizer.init(params), params)
        assert all((delta[k] == -small[k]).all() for k in small)
    assert grad["a"].tolist() == [3, 0]
    zero, _ = optimizer.update({k: 0 * g for k, g in grad.items()}, optimizer.init(params), params)
    assert all((d == 0).all() for d in zero.values())


def test_clip_comes_before_the_moments():
    path = run(dn.clip(dn.momentum(1.0, 0.5), 1.0), [10.0, 10.0])
    assert path == [-1.0, -2.5]


@pytest.mark.parametrize(("dtype", "size"), [
    (np.float32, 1e25), (np.float32, 1e-25), (np.float64, 1e150), (np.float64, 1e-150),
])
def test_norms_of_the_largest_and_smallest_gradients(dtype, size):
    grad = {"a": np.array([3, 0], dtype) * dtype(size), "b": np.array([[4]], dtype) * dtype(size)}
    assert global_norm(grad) == pytest.approx(5 * size, rel=float(4 * np.finfo(dtype).eps))
    if size > 1:
        optimizer = dn.clip(dn.sgd(1.0), 1.0)
        delta, _ = optimizer.update(grad, optimizer.init(grad), grad)
        assert delta["a"].dtype == dtype
        assert delta["a"][0] == pytest.approx(-0.6, rel=float(8 * np.finfo(dtype).eps))


def test_global_norm():
    assert global_norm({"a": np.array([1.0, 2.0]), "b": np.array(2.0)}) == 3.0
    assert global_norm({}) == 0.0
    assert type(global_norm({"a": np.ones(2, np.float32)})) is float
    assert math.isnan(global_norm({"a": np.array([np.nan])}))


OPTIMIZERS = {
    "sgd": dn.sgd(0.1),
    "momentum": dn.momentum(0.1),
    "adam": dn.adam(lambda step: 0.1 / (1 + step)),
    "clip": dn.clip(dn.adam(0.1), 0.5),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_state_is_a_flat_dict_of_arrays_that_np_savez_keeps(name, dtype, tmp_path):
    optimizer, rng = OPTIMIZERS[name], np.random.default_rng(0)
    params = {"W": rng.normal(size=(3, 2)).astype(dtype), "b/c": rng.normal(size=2).astype(dtype)}
    grads = [{k: rng.normal(size=p.shape).astype(dtype) for k, p in params.items()} for _ in range(6)]

    def go(params, state, grads):
        for grad in grads:
            kept = {k: s.copy() for k, s in state.items()}
            delta, new = optimizer.update(grad, state, params)
            assert all((state[k] == kept[k]).all() for k in kept)  # nothing in place
            assert {k: d.dtype for k, d in delta.items()} == dict.fromkeys(params, np.dtype(dtype))
            state, params = new, {k: p + delta[k] for k, p in params.items()}
        return params, state

    whole, whole_state = go(params, optimizer.init(params), grads)
    half, state = go(params, optimizer.init(params), grads[:3])
    assert all(isinstance(s, np.ndarray) for s in state.values())
    assert state["step"] == 3
    np.savez(tmp_path / "state.npz", **state)
    with np.load(tmp_path / "state.npz") as file:
        loaded = dict(file)
    assert loaded.keys() == state.keys() == optimizer.init(params).keys()
    for k, s in state.items():
        assert loaded[k].dtype == s.dtype
    assert {s.dtype for k, s in state.items() if k != "step"} <= {np.dtype(dtype)}
    end, end_state = go(half, loaded, grads[3:])
    for k in params:
        assert end[k].tobytes() == whole[k].tobytes()
    for k in whole_state:
        assert end_state[k].tobytes() == whole_state[k].tobytes()


@pytest.mark.parametrize(("make", "text"), [
    (lambda: dn.sgd(0.0), "lr is 0.0; expected a finite number above 0"),
    (lambda: dn.sgd(-1.0), "lr is -1.0; expected a finite number above 0"),
    (lambda: dn.momentum(np.inf), "lr is inf; expected a finite number"),
    (lambda: dn.adam("fast"), "lr is 'fast'; expected a finite number"),
    (lambda: dn.momentum(0.1, 1.0), "decay is 1.0; expected at least 0 and below 1"),
    (lambda: dn.momentum(0.1, -0.1), "decay is -0.1; expected at least 0 and below 1"),
    (lambda: dn.adam(0.1, b1=1.0), "b1 is 1.0; expected at least 0 and below 1"),
    (lambda: dn.adam(0.1, b2=1.5), "b2 is 1.5; expected at least 0 and below 1"),
    (lambda: dn.adam(0.1, eps=0.0), "eps is 0.0; expected a finite number above 0"),
    (lambda: dn.clip(dn.sgd(0.1), 0.0), "max_norm is 0.0; expected a finite number above 0"),
    (lambda: dn.clip(dn.sgd(0.1), np.nan), "max_norm is nan; expected a finite number"),
])
def test_optimizers_refuse(make, text):
    with message(text):
        make()
