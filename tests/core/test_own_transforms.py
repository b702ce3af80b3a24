"""A bound child under a user's own transform: allowed without key and state, refused with."""

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxnn as nn

KEY = jax.random.key(0)
X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)


class Mapped(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        return jax.vmap(lambda row: self.inner(row))(x)


class Scanned(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        return lax.scan(lambda carry, _: (self.inner(carry), None), x, length=2)[0]


class Checkpointed(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        call = jax.checkpoint(self.inner)
        return call(call(x))


class Jitted(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        return jax.jit(self.inner)(x)


class Differentiated(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        return jax.grad(lambda x: self.inner(x).sum())(x)


@pytest.mark.parametrize("kind", [Mapped, Scanned, Checkpointed, Jitted, Differentiated])
class TestOwnTransforms:
    def test_pure_children_work(self, kind):
        net = kind(nn.Sequential(nn.Dense(4), jnp.tanh, nn.Dropout(0.5)))
        params = net.init(KEY, X)
        chex.assert_trees_all_equal(params["inner"], net.inner.init(nn.fold_in(KEY, "inner"), X))
        with jax.checking_leaks():
            y = jax.jit(net.apply)(params, X)
        chex.assert_trees_all_close(y, net.apply(params, X), rtol=1e-5, atol=1e-6)

    def test_a_key_is_refused(self, kind):
        net = kind(nn.Residual(nn.Sequential(nn.Dense(4), nn.Dropout(0.5))))
        params = net.init(KEY, X)
        with pytest.raises(ValueError, match=r"inner/1.*your own transform.*nn\.Repeat"):
            net.apply(params, X, key=KEY, train=True)

    def test_state_is_refused(self, kind):
        net = kind(nn.BatchNorm())
        x = X if kind is not Mapped else X[None]
        params, state = net.init(KEY, x), net.init_state(x)
        with pytest.raises(ValueError, match=r"inner.*your own transform"):
            net.apply(params, x, state=state, train=True)

    def test_a_composite_that_asks_for_a_key_is_refused(self, kind):
        class Noisy(nn.Composite):
            inner: nn.Layer

            def forward(self, x, *, key):
                return self.inner(x)

        net = kind(Noisy(nn.Dense(4)))
        params = net.init(KEY, X)
        with pytest.raises(ValueError, match="your own transform"):
            net.apply(params, X, key=KEY)

    def test_a_captured_value_is_refused(self, kind):
        net = nn.capture(kind(nn.Sequential(nn.Dense(4), jnp.tanh)), "inner/0")
        inner = net.inner
        assert isinstance(inner, nn.Layer)
        with pytest.raises(ValueError, match=r"inner.*would be captured inside a transform"):
            net.apply(inner.init(KEY, X), X)


def test_wrappers_inside_a_transform_do_not_hide_it():
    for wrap in (nn.Remat, lambda net: nn.Repeat(net, 2), lambda net: nn.Ensemble(net, 2)):
        net = Mapped(wrap(nn.Dropout(0.5)))
        with pytest.raises(ValueError, match="your own transform"):
            net.apply(net.init(KEY, X), X, key=KEY, train=True)


def test_contexts_are_no_transforms():
    class Context(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            with jax.named_scope("part"), jax.default_matmul_precision("float32"):
                return self.inner(x)

    net = Context(nn.Sequential(nn.BatchNorm(), nn.Dropout(0.5)))
    given = net.init(KEY, X), X
    y, _ = net.apply(*given, state=net.init_state(X), key=KEY, train=True)
    assert y.shape == X.shape


def test_masks_under_wrappers_do_not_repeat():
    x = jnp.ones(64)
    repeated = nn.capture(nn.Repeat(nn.Sequential(nn.Dropout(0.5), jnp.ones_like), 3), "0")
    _, masks = repeated.apply(({}, {}), x, key=KEY, train=True)
    rows = {tuple((row == 0).tolist()) for row in masks["0"]}
    members = nn.Ensemble(nn.Dropout(0.5), 3).apply({}, x, key=KEY, train=True)
    rows |= {tuple((row == 0).tolist()) for row in members}

    class Twice(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return self.inner(x), self.inner(x)

    both = Twice(nn.Remat(nn.Dropout(0.5))).apply({"inner": {}}, x, key=KEY, train=True)
    rows |= {tuple((row == 0).tolist()) for row in both}
    assert len(rows) == 3 + 3 + 2


def test_the_pure_pair_in_a_scan_by_hand():
    """`child.layer` and `child.params`, with keys that the scan folds itself."""

    class ByHand(nn.Composite):
        cell: nn.Layer

        def forward(self, x, *, key, train):
            keys = None if key is None else jax.random.split(key, 5)

            def body(carry, key):
                return self.cell.layer.apply(self.cell.params, carry, key=key, train=train), None

            return lax.scan(body, x, keys, length=5)[0]

    net = ByHand(nn.Sequential(nn.Dense(4), nn.Dropout(0.5)))
    params = net.init(KEY, X)
    chex.assert_trees_all_equal(params["cell"], net.cell.init(nn.fold_in(KEY, "cell"), X))
    expected = X
    for _ in range(5):
        expected = net.cell.apply(params["cell"], expected)
    chex.assert_trees_all_close(net.apply(params, X), expected, rtol=1e-5, atol=1e-6)
    with jax.checking_leaks():
        y = jax.jit(lambda p: net.apply(p, X, key=KEY, train=True))(params)
    assert (y == 0).any()


def test_state_threads_through_two_calls():
    class Twice(nn.Composite):
        norm: nn.Layer

        def forward(self, x):
            self.norm(x)
            return self.norm(2 * x)

    net, norm = Twice(nn.BatchNorm()), nn.BatchNorm()
    params, state = net.init(KEY, X), net.init_state(X)
    _, found = net.apply(params, X, state=state, train=True)
    _, middle = norm.apply(params["norm"], X, state=state["norm"], train=True)
    _, last = norm.apply(params["norm"], 2 * X, state=middle, train=True)
    chex.assert_trees_all_close(found["norm"], last, rtol=1e-6)
