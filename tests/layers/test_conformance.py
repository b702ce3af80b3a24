"""Samples of other libraries' own tests: node cases of onnx, and module samples of torch.

Each sample of an operator or class in scope is computed by its counterpart here, and compared.
docs/out-of-scope.csv lists all others with a reason: operators and classes as `onnx.Name` and
`torch.nn.Name`, single samples as `onnx.Name/sample` and `torch.nn.Name/pattern of arguments`.
"""

import csv
import fnmatch
import functools
import importlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import onnx_nodes, torch_modules

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TABLE = Path(__file__).parents[2] / "docs" / "out-of-scope.csv"
REASONS = {r["name"]: r["reason"] for r in csv.DictReader(TABLE.read_text().splitlines())}


def listed(name: str, used: set[str]) -> bool:
    """Whether a pattern of the table fits; those that do are added to `used`."""
    found = {pattern for pattern in REASONS if fnmatch.fnmatchcase(name, pattern)}
    used |= found
    return bool(found)


def unused(library: str, used: set[str]) -> list[str]:
    return [name for name in REASONS if name.startswith(library) and name not in used]


@functools.cache
def node_cases() -> list[Any]:
    """The cases of one node each; the others are the same cases as functions of other operators."""
    load = pytest.importorskip("onnx.backend.test.loader").load_model_tests
    cases = load(kind="node")
    return [case for case in cases if len(case.model.graph.node) == 1]


def operator_of(case: Any) -> tuple[str, dict[str, Any], list[str]]:
    onnx = importlib.import_module("onnx")
    (node,) = case.model.graph.node
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return node.op_type, found, list(node.input)


def test_nodes_of_onnx():
    ran, wrong, unlisted, used = 0, [], set(), set()
    for case in node_cases():
        kind, attributes, names = operator_of(case)
        sample = f"onnx.{kind}/{case.name.removeprefix('test_')}"
        if listed(f"onnx.{kind}", used) or listed(sample, used):
            continue
        if kind not in onnx_nodes.READERS:
            unlisted.add(kind)
            continue
        for inputs, outputs in case.data_sets:
            given = iter(inputs)
            arrays = [next(given) if name else None for name in names]
            ran += 1
            try:
                compare_node(case, onnx_nodes.run(kind, attributes, arrays), outputs)
            except Exception as error:
                wrong.append(f"{case.name}: {type(error).__name__} {str(error)[:300]}")
    assert sorted(unlisted) == unused("onnx.", used) == []
    assert wrong == [], "\n".join(wrong)
    assert ran >= 200


def compare_node(case: Any, found: dict[str, Any], outputs: list[Any]) -> None:
    """The first output; of a recurrence, those that the case has."""
    (node,) = case.model.graph.node
    present = [name for name in node.output if name]
    recurrent = node.op_type in ("RNN", "GRU", "LSTM")
    wanted = dict(zip(present, outputs, strict=False)) if recurrent else {"Y": outputs[0]}
    names = {"Y_h": "h", "Y_c": "c"}
    for name, one in wanted.items():
        y = np.asarray(found[names.get(name, name)])
        half = np.asarray(one).dtype.itemsize < 4
        assert y.shape == one.shape, (name, y.shape, one.shape)
        np.testing.assert_allclose(
            np.asarray(y, np.float64), np.asarray(one, np.float64),
            rtol=2e-2 if half else case.rtol, atol=2e-2 if half else 1e-5, err_msg=name,
        )  # fmt: skip


def test_samples_of_torch_modules():
    """Outputs, and gradients of the inputs, in training and in inference."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("expecttest")
    common = importlib.import_module("torch.testing._internal.common_modules")
    ran, wrong, unlisted, used = 0, [], set(), set()
    for info in common.module_db:
        name = info.name.removeprefix("nn.")
        if listed(f"torch.nn.{name}", used):
            continue
        if name not in torch_modules.READERS:
            unlisted.add(name)
            continue
        jax.clear_caches()  # programs of one class are of no use to the next
        for train in (True, False)[1 - info.train_and_eval_differ :]:
            torch.manual_seed(0)
            samples = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=True, training=train
            )
            for sample in samples:
                made, called = sample.constructor_input, sample.forward_input
                text = f"torch.nn.{name}/{shown(made)} {sample.desc}"
                if listed(text, used):
                    continue
                ran += 1
                try:
                    compare_module(torch, info, made, called, train)
                except Exception as error:
                    wrong.append(f"{text}: {type(error).__name__} {str(error)[:300]}")
    assert sorted(unlisted) == unused("torch.", used) == []
    assert wrong == [], "\n".join(wrong)
    assert ran >= 400


def shown(made: Any) -> str:
    items = [*map(repr, made.args), *(f"{k}={v!r}" for k, v in made.kwargs.items())]
    return ", ".join(items)


def compare_module(torch: Any, info: Any, made: Any, called: Any, train: bool) -> None:
    module = info.module_cls(*made.args, **made.kwargs).float().train(train)
    leaves: list[Any] = []

    def copied(a: Any) -> Any:
        if isinstance(a, tuple | list):
            return type(a)(map(copied, a))
        if not isinstance(a, torch.Tensor):
            return a
        a = a.detach().clone()
        if a.is_floating_point():
            leaves.append(a.requires_grad_())
        return a

    named = dict(called.kwargs)
    args = tuple(
        copied(a) for a in (*called.args, *(named.pop(k) for k in ["input"] if k in named))
    )
    if type(module).__name__.startswith("Lazy"):
        module(*args, **named)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    function = torch_modules.convert(module)  # before running statistics change
    ys = flat(module(*args, **named))
    total: Any = sum((y * y.detach().cos()).sum() for y in ys if y.is_floating_point())
    total.backward()

    def array(a: Any) -> Any:
        if isinstance(a, tuple | list):
            return tuple(map(array, a))
        return jnp.asarray(a.detach().numpy()) if isinstance(a, torch.Tensor) else a

    def run(floating: Any) -> Any:
        given = iter(floating)

        def filled(a: Any) -> Any:
            if isinstance(a, tuple | list):
                return tuple(map(filled, a))
            if isinstance(a, torch.Tensor) and a.is_floating_point():
                return next(given)
            return array(a)

        found = flat(function(*(filled(a) for a in args), **named))
        pairs = zip(found, ys, strict=True)
        terms = [(y * jnp.cos(array(z))).sum() for y, z in pairs if z.is_floating_point()]
        return sum(terms), found

    floating = [array(a) for a in leaves]
    # Not compiled as one program: operations of equal shapes are compiled once for all samples.
    (_, found), slopes = jax.value_and_grad(run, has_aux=True)(floating)
    for y, z in zip(found, ys, strict=True):
        np.testing.assert_allclose(y, z.detach().numpy(), rtol=2e-4, atol=2e-5)
    for slope, a in zip(slopes, leaves, strict=True):
        wanted = np.zeros(a.shape) if a.grad is None else a.grad.numpy()
        np.testing.assert_allclose(slope, wanted, rtol=2e-3, atol=2e-4)


def flat(y: Any) -> list[Any]:
    return [one for item in y for one in flat(item)] if isinstance(y, tuple | list) else [y]
