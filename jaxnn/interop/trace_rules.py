"""The relations of each operation of a trace between the axes of its inputs and outputs."""

from collections.abc import Sequence
from typing import Any

MARK = "jaxnn.interop"


def mark_of(window: int) -> str:
    """Return the name of an array whose last axis runs over channels, and `window` axes before it
    over positions."""
    return f"{MARK} {window}"


def follow(jaxpr: Any, axes: dict[Any, list[int]], classes: Any) -> None:
    """Relate the axes of all arrays in `jaxpr`; `axes` holds those of its inputs."""

    def of(atom: Any) -> list[int]:
        if hasattr(atom, "val"):  # a literal
            return classes.new(atom.aval.shape)
        if atom not in axes:
            axes[atom] = classes.new(getattr(atom.aval, "shape", ()))
        return axes[atom]

    for var in jaxpr.constvars:
        of(var)
    for eqn in jaxpr.eqns:
        ins, outs = [of(atom) for atom in eqn.invars], [of(var) for var in eqn.outvars]
        name, settings = eqn.primitive.name, eqn.params
        if name == "scan":
            _scan(settings, ins, outs, classes)
        elif name == "while":
            _while(settings, ins, outs, classes)
        elif name == "cond":
            for branch in settings["branches"]:
                _call(branch.jaxpr, ins[1:], outs, classes)
        elif (inner := _inner(settings)) is not None and len(inner.invars) == len(ins):
            _call(inner, ins, outs, classes)
        else:
            _RULES.get(name, _elementwise)(classes, settings, ins, outs)


def _inner(settings: dict[str, Any]) -> Any:
    """Return the program that an operation calls once, or None."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = settings.get(name)
        if found is not None:
            return getattr(found, "jaxpr", found)
    return None


def _same(classes: Any, one: Sequence[int], other: Sequence[int]) -> None:
    for a, b in zip(one, other, strict=False):
        classes.join(a, b)


def _alike(classes: Any, one: Sequence[int], other: Sequence[int]) -> None:
    """Relate axes that share only a part of the elements; the same axis if sizes are equal."""
    for a, b in zip(one, other, strict=False):
        classes.join(a, b)
        classes.alike(a, b)


def _call(jaxpr: Any, ins: Any, outs: Any, classes: Any) -> None:
    # A jaxpr may be called twice: its inputs receive axes for each call.
    inside = dict(zip(jaxpr.invars, ins, strict=True))
    follow(jaxpr, inside, classes)
    for var, out in zip(jaxpr.outvars, outs, strict=True):
        if not hasattr(var, "val") and var in inside:
            _same(classes, inside[var], out)


def _scan(settings: Any, ins: Any, outs: Any, classes: Any) -> None:
    body = settings["jaxpr"].jaxpr
    # Inputs and outputs that the loop iterates over have one more axis than in its body.
    k = sum(len(o) == var.aval.ndim for o, var in zip(outs, body.outvars, strict=True))
    n = sum(len(i) == var.aval.ndim for i, var in zip(ins, body.invars, strict=True)) - k
    given = [*ins[: n + k], *(one[1:] for one in ins[n + k :])]
    found = [*outs[:k], *(one[1:] for one in outs[k:])]
    for before, after in zip(ins[n : n + k], outs[:k], strict=True):
        _same(classes, before, after)
    _call(body, given, found, classes)


def _while(settings: Any, ins: Any, outs: Any, classes: Any) -> None:
    skip = settings["cond_nconsts"]
    n = skip + settings["body_nconsts"]
    for before, after in zip(ins[n:], outs, strict=True):
        _same(classes, before, after)
    _call(settings["body_jaxpr"].jaxpr, ins[skip:], outs, classes)


def _elementwise(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    for one in ins:
        for out in outs:
            if len(one) == len(out):
                _same(classes, one, out)


def _partly(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    """Slices, padding, concatenation: the same axes, some of another size."""
    for one in ins:
        for out in outs:
            if len(one) == len(out):
                _alike(classes, one, out)


def _named(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    _same(classes, ins[0], outs[0])
    name, _, window = settings["name"].rpartition(" ")
    if name == MARK:
        classes.mark_image(ins[0], int(window))


def _transpose(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    _same(classes, [ins[0][i] for i in settings["permutation"]], outs[0])


def _broadcast(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    _same(classes, ins[0], [outs[0][i] for i in settings["broadcast_dimensions"]])


def _squeeze(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    gone = settings["dimensions"]
    _same(classes, [a for i, a in enumerate(ins[0]) if i not in gone], outs[0])


def _reduce(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    gone = settings["axes"]
    for one in ins:
        kept = [a for i, a in enumerate(one) if i not in gone]
        for out in outs:
            if len(kept) == len(out):
                _same(classes, kept, out)


def _reshape(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    """Runs of axes with equal products, as short as they can be."""
    one, other = ([a for a in axes if classes.sizes[a] != 1] for axes in (ins[0], outs[0]))
    if any(classes.sizes[a] == 0 for a in one):
        return
    while one and other:
        left, right = [one.pop(0)], [other.pop(0)]
        m, n = classes.sizes[left[0]], classes.sizes[right[0]]
        while m != n:
            if m < n:
                left.append(one.pop(0))
                m *= classes.sizes[left[-1]]
            else:
                right.append(other.pop(0))
                n *= classes.sizes[right[-1]]
        if len(left) == len(right) == 1:
            classes.join(left[0], right[0])
            continue
        whole = left[0] if len(left) == 1 else right[0] if len(right) == 1 else classes.new([m])[0]
        for parts in (left, right):
            if len(parts) > 1:
                classes.product(whole, parts)


def _dot(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    (summed_one, summed_other), (batch_one, batch_other) = settings["dimension_numbers"]
    one, other = ins[0], ins[1]
    _same(classes, [one[i] for i in summed_one], [other[i] for i in summed_other])
    _same(classes, [one[i] for i in batch_one], [other[i] for i in batch_other])
    free_one = [a for i, a in enumerate(one) if i not in (*summed_one, *batch_one)]
    free_other = [a for i, a in enumerate(other) if i not in (*summed_other, *batch_other)]
    _same(classes, [*(one[i] for i in batch_one), *free_one, *free_other], outs[0])


def _convolution(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    numbers, (x, w), y = settings["dimension_numbers"], ins, outs[0]
    (n, c, *window), (features, inputs, *_) = numbers.lhs_spec, numbers.rhs_spec
    out_n, out_c, *out_window = numbers.out_spec
    classes.join(x[n], y[out_n])
    classes.join(w[features], y[out_c])
    classes.join(x[c], w[inputs])  # sizes differ if there are groups
    _alike(classes, [x[i] for i in window], [y[i] for i in out_window])
    for axes, channel, places in ((x, c, window), (y, out_c, out_window)):
        classes.mark_image([*(axes[i] for i in places), axes[channel]], len(places))


def _bilinear(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    """A convolution on a CPU, with the same order of axes for all arrays."""
    (x, w), y = ins, outs[0]
    classes.join(x[0], y[0])
    classes.join(w[-1], y[-1])
    classes.join(x[-1], w[-2])
    _alike(classes, x[1:-1], y[1:-1])
    for axes in (x, y):
        classes.mark_image(axes[1:], len(axes) - 2)


def _gather(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    numbers, operand, out = settings["dimension_numbers"], ins[0], outs[0]
    dropped = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    kept = [a for i, a in enumerate(operand) if i not in dropped]
    _alike(classes, kept, [out[i] for i in numbers.offset_dims])
    rest = [a for i, a in enumerate(out) if i not in numbers.offset_dims]
    _same(classes, ins[1][:-1], rest)


def _first(classes: Any, settings: Any, ins: Any, outs: Any) -> None:
    """Relate only the first input; the others are positions without axes."""
    _partly(classes, settings, ins[:1], outs)


_PARTLY = ("concatenate", "pad", "slice", "split", "dynamic_update_slice", "reduce_window")
_PARTLY += ("reduce_window_max", "reduce_window_min", "reduce_window_sum")
_REDUCTIONS = ("reduce", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and")
_REDUCTIONS += ("reduce_or", "reduce_xor", "argmax", "argmin")
_RULES: dict[str, Any] = {
    "name": _named,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "convolution": _bilinear,
    "gather": _gather,
    "dynamic_slice": _first,
    **dict.fromkeys(_PARTLY, _partly),
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
