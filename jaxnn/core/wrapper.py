"""Wrappers turn a layer into a layer and add no level to paths."""

from typing import Any

from .calls import Call, Outcome
from .composite import as_layers
from .declarations import Declaration
from .layer import Layer, LayerLike, declared
from .signatures import Signature
from .values import copy_with


class Wrapper(Layer):
    """A layer around another one, with its parameters, state, methods and paths.

    A subclass overrides `_declare` and `_evaluate`, or one of them, and hands the inner layer a
    call of its own.
    """

    inner: LayerLike

    def _normalize_fields(self) -> None:
        super()._normalize_fields()
        inner = as_layers(self.inner, f"{type(self).__name__}.inner")
        if not isinstance(inner, Layer):
            raise TypeError(f"{type(self).__name__} wraps a layer, got {inner!r}")
        object.__setattr__(self, "inner", inner)

    @property
    def wrapped(self) -> Layer:
        """The inner layer."""
        return self.inner  # type: ignore[return-value]

    def _children(self) -> Any:
        return self.wrapped._children()

    def _with_children(self, children: Any) -> Any:
        return copy_with(self, inner=self.wrapped._with_children(children))

    def _has_method(self, name: str) -> bool:
        return self.wrapped._has_method(name)

    def _methods(self) -> list[str]:
        return self.wrapped._methods()

    def _signature(self, method: str) -> Signature:
        return self.wrapped._signature(method)

    def _takes(self, method: str) -> set[str]:
        return self.wrapped._takes(method)

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        return declared(self.wrapped, method, inputs, named)

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        return self.wrapped._evaluate(call, method, inputs, named)
