"""Evaluation and prediction: a program applied to a whole data set, in pieces.

`Evaluate` is the hook that evaluates at each record of a run.

Metrics are combined as they declare, so their values do not depend on the size of the pieces. The
random key of piece i is `fold_in(key, i)`.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ..data.accept import as_source, fingerprint_of, pieces, unaugmented
from ..data.rows import check_like, row_count, row_spec
from ..data.source import Source
from ..data.stream import Stream
from ..explain import entry
from ..fields import describe
from ..keys import as_key, kept_key, kept_words
from ..validation import Accepts, instance, positive
from .hooks import Hook
from .metrics import check_metrics, directions
from .program import Program, check_program, code_of
from .record import Event, combine, prefixed
from .step import SINGLE_DEVICE, remembered, valid_placement

SIZE = 1024  # rows of a piece


@entry
def evaluate(
    program: Program,
    state: Any,
    data: Any = None,
    *,
    key: jax.Array | None = None,
    batch_size: int = SIZE,
    placement: Any = SINGLE_DEVICE,
) -> dict[str, float]:
    """Return the metrics of a state over all rows of data.

    Args:
        program: The program; its method `evaluate` is called.
        state: A state of the program.
        data: Data in any form that `train.run` accepts; each row is read once. Default: None, for a
            program without data.
        key: JAX key. Default: `jax.random.key(0)`, so that two evaluations are comparable.
        batch_size: Maximum number of rows of a piece. Default: 1024.
        placement: Devices of the arrays, a `parallel.Placement`. Default: one device.

    Returns:
        Floats by name.

    Raises:
        TypeError, ValueError: There are no rows, or the program cannot be evaluated on the data.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> program = train.Supervised(nn.Dense(1), train.Regression(), optax.sgd(0.1))
    >>> data = jnp.ones((5, 2)), jnp.zeros(5)
    >>> sorted(train.evaluate(program, program.init(jax.random.key(0), data), data))
    ['loss', 'mae']
    """
    check_program(program, "evaluate")
    valid_placement(placement, "placement")
    positive(batch_size, "batch_size")
    data = _prepared(program, data, "data", placement)
    return _evaluated(program, state, data, batch_size, placement, key)


def _evaluated(
    program: Program, state: Any, data: Any, size: int, placement: Any, key: Any = None
) -> dict[str, float]:
    """Evaluate as `evaluate` does, on the result of `_prepared`, in pieces of `size` rows."""
    call = _evaluation(program, state, placement, key)
    several = enumerate(_pieces(data, size, placement, program.check_data))
    return combine(
        (call(piece, i), 1 if data is None else row_count(piece)) for i, piece in several
    )


@entry
def predict(
    program: Program,
    state: Any,
    inputs: Any,
    *,
    batch_size: int = SIZE,
    placement: Any = SINGLE_DEVICE,
) -> Any:
    """Return `program.predict` of all rows, in pieces.

    Args:
        program: The program; its method `predict` is called.
        state: A state of the program.
        inputs: A pytree of arrays of rows.
        batch_size: Maximum number of rows of a piece. Default: 1024.
        placement: Devices of the arrays, a `parallel.Placement`. On a mesh, every device receives
            all predictions. Default: one device.

    Raises:
        TypeError, ValueError: The inputs have no rows, or predictions do not have a row for each.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> program = train.Supervised(nn.Dense(3), train.Classification(3), optax.sgd(0.1))
    >>> x = jnp.ones((5, 2))
    >>> state = program.init(jax.random.key(0), (x, jnp.zeros(5, int)))
    >>> train.predict(program, state, x).shape
    (5, 3)
    """
    check_program(program, "predict")
    valid_placement(placement, "placement")
    positive(batch_size, "batch_size")
    compiled = _compiled_prediction(jax.tree.structure(program), code_of(program), placement)
    numbers = placement.put_numbers(program)
    rows = _pieces(as_source(inputs, "inputs"), batch_size, placement)
    parts = [compiled(numbers, state, piece) for piece in rows]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluate(Hook):
    """Evaluate the program's state at each record, and add the metrics to it.

    The metrics are those of `program.evaluate`, combined over all rows, with the same key at every
    record. Hooks that read these metrics, such as `EarlyStopping`, must come after this hook.

    Args:
        data: As for `train.evaluate`. Default: None, for a program without data.
        name: The prefix of the metrics: "validation" gives `validation_loss`. Default:
            "validation".
        batch_size: Maximum number of rows that are evaluated at once. Default: 1024.
        program: The program that evaluates the state. Default: None, the run's program.

    >>> import numpy as np
    >>> Evaluate((np.ones((3, 2)), np.zeros(3)), name="test").name
    'test'
    """

    data: Any = None
    name: Annotated[str, instance(str, "a str, the prefix of the metrics")] = "validation"
    batch_size: Annotated[int, positive] = SIZE
    program: Any = None

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Self]:
        """Check the data, and put arrays on the device once."""
        program = run.program if self.program is None else self.program
        data = _prepared(program, self.data, f"{self.name} data", run.placement)
        yield dataclasses.replace(self, data=data, program=program)

    def check(self, run: Any) -> None:
        """Add the names and directions of the metrics, by abstract evaluation."""
        program, piece = self.program, _piece_spec(self.data, self.batch_size)
        try:
            metrics = _evaluation(program, run.state, run.placement, None, abstract=True)(piece, 0)
        except Exception as error:
            spec = run.loader.spec()
            if piece is not None and spec is not None and program is run.program:
                try:
                    check_like(piece, spec, f"{self.name} data", "the training data")
                except ValueError as difference:  # which is what the program failed at
                    raise difference from error
            raise
        require_metrics(metrics, type(program).__name__)
        run.names |= prefixed(self.name, metrics).keys()
        run.directions |= prefixed(self.name, directions(metrics))

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Add the metrics to the record."""
        more = self.data, self.batch_size, event.run.placement
        event.add(prefixed(self.name, _evaluated(self.program, event.state, *more)))
        return memory, None

    def identity(self) -> Mapping[str, Any]:
        """Return the checksums of the data."""
        return {} if self.data is None else {self.name: fingerprint_of(as_source(self.data))}


def _piece_spec(data: Any, batch_size: int) -> Any:
    """Return the shapes and types of the first piece of an evaluation of `_prepared` data."""
    if data is None:
        return None
    if isinstance(data, Stream):
        return data.spec()
    if isinstance(data, Source):
        return data.spec(batch_size)
    return row_spec(data, min(batch_size, row_count(data)))


def _prepared(program: Program, data: Any, name: str, placement: Any) -> Any:
    """Return data to evaluate: a source, or arrays on the device that the program accepts."""
    data = unaugmented(as_source(data, name))
    if data is None or isinstance(data, Source):
        return data
    program.check_data(data, name)
    return placement.put(data)


def require_metrics(metrics: dict[str, Any], owner: str) -> None:
    """Raise ValueError if there are no metrics."""
    hint = "write def evaluate(self, state, batch, *, key): ... return {'loss': loss}"
    Accepts("at least one metric by name", bool)(metrics, f"the result of {owner}.evaluate", hint)


def _pieces(data: Any, size: int, placement: Any, check: Any = None) -> Iterator[Any]:
    """Yield all rows once, in pieces that are placed as `placement` places whole arrays.

    The pieces of a source are checked on the host; arrays were checked as a whole.
    """
    if data is None:
        yield None
    elif isinstance(data, Source):
        for piece in pieces(data, size):
            if check is not None:
                check(piece, "a batch of the data")
            yield placement.put(piece)
    else:
        yield from pieces(placement.put(data), size)


def _evaluation(
    program: Program, state: Any, placement: Any, key: Any, abstract: bool = False
) -> Any:
    """Return the function that evaluates piece i of the data, or only its shapes."""
    static = jax.tree.structure(program), code_of(program), placement, placement.layout(state)
    compiled, numbers = _compiled_evaluation(*static), placement.put_numbers(program)
    # On the host, so that the words of the key are the same in all processes.
    words = np.asarray(kept_words(as_key(jax.random.key(0) if key is None else key)))
    call = compiled.eval_shape if abstract else compiled
    return lambda piece, i: call(numbers, state, piece, words, np.int32(i))


@remembered
def _compiled_evaluation(structure: Any, code: Any, placement: Any, layout: Any) -> Any:
    def evaluate(numbers: Any, state: Any, piece: Any, words: Any, number: Any) -> dict[str, Any]:
        program = jax.tree.unflatten(structure, numbers)
        owner = type(program).__name__
        piece = placement.pinned_piece(piece)
        program = placement.gathering(program, state, piece, layout)
        key = jax.random.fold_in(kept_key(words), number)
        metrics = program.evaluate(state, piece, key=key)
        check_metrics(metrics, f"{owner}.evaluate")
        return placement.pinned_whole(dict(metrics))

    return jax.jit(evaluate)


@remembered
def _compiled_prediction(structure: Any, code: Any, placement: Any) -> Any:
    def predict(numbers: Any, state: Any, inputs: Any) -> Any:
        program = jax.tree.unflatten(structure, numbers)
        found = program.predict(state, placement.pinned_piece(inputs))
        if jax.tree.leaves(inputs):
            rows = row_count(inputs)
            alike = Accepts(
                f"of {rows} rows, one for each row of the inputs",
                lambda leaf: jnp.shape(leaf)[:1] == (rows,),
                hint="write x[None] for the inputs of one row",
                abstract=True,
            )
            for leaf in jax.tree.leaves(found):
                alike(leaf, f"predictions of {describe(inputs)}")
        return placement.pinned_whole(found)

    return jax.jit(predict)
