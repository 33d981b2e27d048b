"""How numbers get into somebody else's framework and back, and how its gradient is taken. None is a dependency.

A `Framework` turns exact numbers into its arrays of one dtype, calls a function on them and returns what came out as
NumPy arrays, wide enough to hold it exactly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["DTYPES", "Dtype", "Framework", "Result", "framework_of"]

Array = NDArray[Any]
Converters = tuple[Callable[[Array], Any], Callable[[Any], ArrayLike]]


class Dtype(NamedTuple):
    """A format of floats: eps = 2**-digits is the distance from 1 to the next."""

    name: str
    digits: int
    least: int  # 2**least is the smallest normal number
    most: float

    @property
    def eps(self) -> float:
        """2^-digits, from 1 to the next number"""
        return 2.0**-self.digits

    @property
    def tiny(self) -> float:
        """2^least, the smallest normal number"""
        return 2.0**self.least

    def ulp(self, x: ArrayLike) -> Array:
        """The distance to the next number of this dtype, away from 0; that of subnormals next to 0."""
        size = np.abs(np.asarray(x, np.longdouble))
        _, exponent = np.frexp(np.where(np.isfinite(size), size, 0))
        exponent = np.where(size == 0, self.least, exponent - 1)
        spacing: Array = np.ldexp(np.longdouble(1), np.maximum(exponent, self.least) - self.digits)
        return spacing

    def round(self, x: ArrayLike) -> Array:
        """The nearest numbers of this dtype, in longdouble; not beyond the largest."""
        wide = np.asarray(x, np.longdouble)
        unit = self.ulp(wide)
        with np.errstate(invalid="ignore"):
            nearest = np.rint(wide / unit) * unit
        return np.where(np.isfinite(wide), np.clip(nearest, -self.most, self.most), wide)


#: by name
DTYPES = {
    "float64": Dtype("float64", 52, -1022, float(np.finfo(np.float64).max)),
    "float32": Dtype("float32", 23, -126, float(np.finfo(np.float32).max)),
    "float16": Dtype("float16", 10, -14, 65504.0),
    "bfloat16": Dtype("bfloat16", 7, -126, 2.0**127 * (2 - 2.0**-7)),
}


class Result(NamedTuple):
    """What a call gave: its outputs in order, the gradients of the sum of the first, and what is to be said of it."""

    outputs: list[Any]  # arrays in longdouble; what is none stays what it was
    dtype: str  # of the first output
    grads: dict[str, Array | None] | None  # by input; None: no gradient flows; no dict: none was asked for
    no_gradient: str  # why there is none, or ""
    moved: list[str]  # inputs that are not what they were


class Framework(NamedTuple):
    """How a framework makes an array of exact numbers, gives numbers back, and takes a gradient."""

    name: str
    array: Callable[[Array, str], Any]  # exact numbers, integers or booleans, and a dtype -> its array
    numpy: Callable[[Any], tuple[Array, str]]  # its array -> (numbers in longdouble, dtype); TypeError if it is none
    gradient: Callable[..., Any] | None  # (f, arrays by name, names) -> outputs, grads, why there are none
    dtypes: tuple[str, ...]

    def call(self, f: Callable[..., Any], inputs: Mapping[str, Any], dtype: str, wrt: Sequence[str]) -> Result:
        """f(**inputs), and the gradients in `wrt` of the sum of its first output, if this framework takes gradients."""
        given = {name: self.array(x, dtype) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}
        if self.gradient and wrt:
            outputs, grads, why = self.gradient(f, given, tuple(wrt))
        else:
            outputs, grads, why = f(**given), None, ""
        first, found = "", []
        for x in _flat(outputs):
            try:
                numbers, kind = self.numpy(x)
            except (TypeError, ValueError, RuntimeError):
                found.append(x)
                continue
            found.append(numbers)
            first = first or kind
        moved = [
            name
            for name, x in inputs.items()
            if isinstance(x, np.ndarray) and not np.array_equal(self.numpy(given[name])[0], x, equal_nan=True)
        ]
        return Result(
            found,
            first,
            None if grads is None else {name: None if g is None else self.numpy(g)[0] for name, g in grads.items()},
            why,
            moved,
        )


def _flat(outputs: Any) -> list[Any]:
    """The outputs one by one; gradients that come in a tuple of their own, out of it"""
    if not isinstance(outputs, (tuple, list)):
        return [outputs]
    return [*outputs[:1], *(y for x in outputs[1:] for y in (x if isinstance(x, (tuple, list)) else (x,)))]


# ---- NumPy


def _plain(x: Array, dtype: str) -> Array:
    return np.array(x, dtype if x.dtype.kind == "f" else None)


def _back(x: Any) -> tuple[Array, str]:
    if isinstance(x, (bool, int, float)):
        return np.asarray(x, np.longdouble), "a Python number"
    if not isinstance(x, (np.ndarray, np.generic)) or x.dtype.kind not in "fiub":
        raise TypeError(type(x).__name__)
    return np.asarray(x, np.longdouble), str(x.dtype)


# ---- torch


def _torch(device: str) -> Framework:
    torch = import_module("torch")

    def array(x: Array, dtype: str) -> Any:
        if x.dtype.kind != "f":
            return torch.from_numpy(np.array(x)).to(device)
        return torch.from_numpy(np.array(x, np.float64)).to(device=device, dtype=getattr(torch, dtype))

    def back(x: Any) -> tuple[Array, str]:
        if not isinstance(x, torch.Tensor):
            return _back(x)
        kept = x.detach().to("cpu")
        wide = kept.to(torch.float64) if kept.is_floating_point() else kept
        return np.asarray(wide.numpy(), np.longdouble), str(x.dtype).removeprefix("torch.")

    def gradient(f: Callable[..., Any], given: Mapping[str, Any], wrt: Sequence[str]) -> Any:
        leaves = {name: given[name].requires_grad_() for name in wrt}
        with torch.enable_grad():
            outputs = f(**given)
        first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        if not isinstance(first, torch.Tensor):
            return outputs, None, f"it returns {_a(first)}, not a tensor"
        if not first.requires_grad:
            return outputs, None, "its result is detached from the inputs"
        grads = torch.autograd.grad(first.sum(), list(leaves.values()), allow_unused=True)
        return outputs, dict(zip(leaves, grads, strict=True)), ""

    return Framework("torch", array, back, gradient, tuple(DTYPES))


# ---- JAX


def _jax(device: str) -> Framework:
    jax = import_module("jax")
    jnp = import_module("jax.numpy")
    jax.config.update("jax_enable_x64", True)  # else float64 is float32 without a word
    place = jax.devices(device)[0]

    def array(x: Array, dtype: str) -> Any:
        given = np.array(x, np.float64) if x.dtype.kind == "f" else np.array(x)
        there = jnp.asarray(given).astype(dtype) if x.dtype.kind == "f" else jnp.asarray(given)
        return jax.device_put(there, place)

    def back(x: Any) -> tuple[Array, str]:
        if not isinstance(x, jax.Array):
            return _back(x)
        wide = np.asarray(x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x)
        return np.asarray(wide, np.longdouble), str(x.dtype)

    def gradient(f: Callable[..., Any], given: Mapping[str, Any], wrt: Sequence[str]) -> Any:
        rest = {name: x for name, x in given.items() if name not in wrt}

        def first(leaves: Mapping[str, Any]) -> Any:
            outputs = f(**rest, **leaves)
            return (outputs[0] if isinstance(outputs, (tuple, list)) else outputs).sum()

        outputs = f(**given)
        try:
            return outputs, jax.grad(first)({name: given[name] for name in wrt}), ""
        except Exception as error:  # tracing refuses what plain numbers allow
            shown = outputs[0] if isinstance(outputs, (tuple, list)) and outputs else outputs
            what = "" if isinstance(shown, jax.Array) else f"it returns {_a(shown)}; "
            return outputs, None, f"{what}jax.grad raised {type(error).__name__}: {_brief(error)}"

    return Framework("jax", array, back, gradient, tuple(DTYPES))


# ---- anything else


def _converted(name: str, there: Callable[[Array], Any], back: Callable[[Any], ArrayLike]) -> Framework:
    def array(x: Array, dtype: str) -> Any:
        return there(_plain(x, dtype))

    def numpy(x: Any) -> tuple[Array, str]:
        if isinstance(x, (bool, int, float)):
            return _back(x)
        return _back(np.asarray(back(x)))

    return Framework(name, array, numpy, None, ("float64", "float32", "float16"))


def framework_of(which: str | Converters, device: str = "cpu") -> Framework:
    """By name: "numpy", "torch", "jax", or "dlpack:MODULE" for a module with `from_dlpack`; or a pair of converters

    (from a NumPy array to theirs, and back). Of the last two, gradients are seen only if they are returned.

    Raises `ValueError` where it is none of these, or not installed.
    """
    if isinstance(which, tuple) and len(which) == 2 and all(map(callable, which)):
        return _converted("converters", *which)
    if not isinstance(which, str):
        raise ValueError(f"framework is {which!r}; expected a name or a pair of functions, to its arrays and back")
    if which == "numpy":
        return Framework("numpy", _plain, _back, None, ("float64", "float32", "float16"))
    module = which.removeprefix("dlpack:")
    if which not in ("torch", "jax") and not which.startswith("dlpack:"):
        raise ValueError(f"framework is {which!r}; expected numpy, torch, jax, dlpack:MODULE or a pair of functions")
    try:
        there = import_module(module)
        if module == which:
            return _torch(device) if which == "torch" else _jax(device)
    except ImportError as error:
        raise ValueError(f"framework is {which!r}, which cannot be imported by {sys.executable}: {error}") from None
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}: {_brief(error)}") from None
    if not hasattr(there, "from_dlpack"):
        raise ValueError(f"framework is {which!r}; expected a module with from_dlpack, which {module} has not")
    # NumPy 2.0 exports no array that it may only read, as are those it was handed
    return _converted(which, there.from_dlpack, lambda x: x if isinstance(x, np.ndarray) else np.from_dlpack(x))


def _a(x: Any) -> str:
    return f"a Python {type(x).__name__}" if isinstance(x, (bool, int, float)) else f"a {type(x).__name__}"


def _brief(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]
