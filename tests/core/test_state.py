"""State that starts random is drawn by path, and forwards draw while shapes are inferred."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from tests.near import assert_near

KEY = jax.random.key(3)
X = jnp.ones((2, 4))


class Codebook(nn.Primitive):
    """A random codebook, and a count that starts constant."""

    def variables(self, x):
        codes = nn.Variable((5, x.shape[-1]), nn.normal(2.0))
        return {
            "codes": codes,
            "more": {"u": nn.Variable((3,), nn.uniform(-1.0, 1.0)), "n": nn.Variable(())},
        }

    def forward(self, params, x, *, state, train):
        new = state | {"codes": 0.9 * state["codes"]} if train else state
        return x + state["codes"].sum(0), new


NET = nn.Sequential(a=nn.Dense(4), code=Codebook())


def test_it_is_drawn_by_path():
    state = NET.init_state(X, key=KEY)["code"]
    at = nn.fold_in(nn.fold_in(KEY, "code"), "codes")
    assert_near(state["codes"], 2 * jax.random.normal(at, (5, 4)))
    at = nn.fold_in(nn.fold_in(nn.fold_in(KEY, "code"), "more"), "u")
    assert_near(state["more"]["u"], jax.random.uniform(at, (3,), minval=-1.0, maxval=1.0))
    assert state["more"]["n"] == 0
    chex.assert_trees_all_equal(state, Codebook().init_state(X, key=nn.fold_in(KEY, "code")))
    more = nn.Sequential(first=Codebook(), a=nn.Dense(4), code=Codebook(), norm=nn.BatchNorm())
    chex.assert_trees_all_equal(more.init_state(X, key=KEY)["code"], state)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_copies_are_drawn_as_layers_of_their_own(impl):
    key = jax.random.key(5, impl=impl)
    members = nn.Ensemble(NET, 3).init_state(X, key=key)
    wanted = [NET.init_state(X, key=nn.fold_in(key, i)) for i in range(3)]
    chex.assert_trees_all_equal(members, jax.tree.map(lambda *a: np.stack(a), *wanted))
    stack = nn.Repeat(nn.Remat(nn.Ensemble(Codebook(), 1)), 2)
    with pytest.raises(ValueError, match="Repeat passes the output of each copy"):
        stack.init_state(X, key=key)
    block = nn.Sequential(nn.Inference(Codebook()))
    repeated = nn.Repeat(nn.Remat(nn.Precision(block, "float32")), 2).init_state(X, key=key)
    row = nn.Sequential(block, block).init_state(X, key=key)
    chex.assert_trees_all_equal(repeated, jax.tree.map(lambda *a: np.stack(a), row["0"], row["1"]))


def test_it_works_in_transforms():
    shapes = jax.eval_shape(lambda key: NET.init_state(X, key=key), KEY)
    state = NET.init_state(X, key=KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)
    assert_near(jax.jit(lambda key: NET.init_state(X, key=key))(KEY), state)
    keys = jax.random.split(KEY, 2)
    lanes = jax.vmap(lambda key: NET.init_state(X, key=key))(keys)
    assert_near(jax.tree.map(lambda a: a[1], lanes), NET.init_state(X, key=keys[1]))


def test_without_a_key_it_shows_the_call_to_write():
    with pytest.raises(
        ValueError,
        match=r"no key was given:\n  code/codes\n  code/more/u\nWrite state = .*state\(x, key=key",
    ):
        NET.init_state(X)
    with pytest.raises(TypeError, match="key must be a single random key, got int 3"):
        NET.init_state(X, key=3)  # type: ignore[arg-type]
    norm = nn.BatchNorm()
    chex.assert_trees_all_equal(norm.init_state(X, key=KEY), norm.init_state(X))


def test_a_run_draws_it_from_its_key():
    task = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)  # noqa: E731
    wanted = NET.init_state(X, key=nn.fold_in(KEY, "variables"))
    program = train.Supervised(NET, task, optax.sgd(0.1))
    state = program.init(KEY, (X, X))
    chex.assert_trees_all_equal(state.state, wanted)
    chex.assert_trees_all_equal(state.params, NET.init(KEY, X))
    state, _ = train.make_step(program)(state, (X, X))
    assert_near(state.state["code"]["codes"], 0.9 * wanted["code"]["codes"])
    assert nn.summary(NET, X).total.state == 5 * 4 + 3 + 1


def test_a_carry_starts_constant():
    class Cell(nn.Primitive):
        def carries(self, x):
            return {"h": nn.Variable(x.shape, nn.normal(1.0))}

        def forward(self, params, carry, x):
            return carry, x

    with pytest.raises(
        TypeError, match=r"at the root, .*the initializer of the carry 'h' must be constant"
    ):
        nn.Recurrent(Cell()).init(KEY, X)


# ---- keys while shapes are inferred ----


class Noise(nn.Primitive):
    """Draws without a special case, also by another method."""

    def parameters(self, x):
        return {"w": nn.Param(x.shape[-1:], nn.normal(1.0))}

    def forward(self, params, x, *, key):
        first, second = jax.random.split(key)
        y = x + params["w"] * jax.random.normal(first, x.shape)
        return y + jax.random.normal(second, x.shape)

    def again(self, params, x, *, key):
        return x + params["w"] * jax.random.normal(key, x.shape)


class Quiet(nn.Primitive):
    def parameters(self, x):
        return {"w": nn.Param(x.shape[-1:], nn.normal(1.0))}

    def forward(self, params, x):
        return x * params["w"]


class Latent(nn.Composite):
    """A composite that draws, with a child that draws by two methods."""

    inner: nn.Layer

    def forward(self, x, *, key):
        return self.inner.again(self.inner(x)) + jax.random.normal(key, x.shape)


class Plain(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        return self.inner(x)


class Cell(nn.Composite):
    cell: nn.Layer

    def forward(self, carry, x, *, key):
        return self.cell(carry, x + jax.random.normal(key, x.shape))

    def carries(self, x):
        return self.cell.carries(x)


LATENT, PLAIN = Latent(Noise()), Plain(Quiet())


@pytest.mark.parametrize(
    ("net", "quiet"),
    [
        (Noise(), Quiet()),
        (LATENT, PLAIN),
        (nn.Sequential(LATENT, Plain(LATENT)), nn.Sequential(PLAIN, Plain(PLAIN))),
        (nn.Repeat(LATENT, 2), nn.Repeat(PLAIN, 2)),
        (nn.Ensemble(nn.Remat(LATENT), 2), nn.Ensemble(PLAIN, 2)),
        (nn.Residual(nn.Precision(LATENT, "float32")), PLAIN),
        (nn.MixtureOfExperts(Noise(), 2), nn.MixtureOfExperts(Quiet(), 2)),
    ],
    ids=repr,
)
def test_a_forward_that_draws_needs_no_special_case(net, quiet):
    """The parameters are those of a network that draws nothing; without a key, apply says so."""
    params = net.init(KEY, X)
    chex.assert_trees_all_equal(params, quiet.init(KEY, X))
    assert net.init_state(X) == {}
    run = jax.jit(lambda key: net.apply(params, X, key=key))
    one, other = (run(jax.random.key(i)) for i in range(2))
    assert one.shape == other.shape and not np.array_equal(one, other)
    chex.assert_trees_all_equal(nn.capture(net).init(KEY, X), params)
    with pytest.raises(TypeError, match="forward draws random numbers, but no key was given"):
        jax.eval_shape(net.apply, params, X)


def test_a_cell_that_draws():
    net, x = nn.Recurrent(Cell(nn.GRUCell(3))), jnp.ones((2, 5, 4))
    params = net.init(KEY, x)
    quiet = nn.Recurrent(nn.GRUCell(3)).init(nn.fold_in(KEY, "cell"), x)
    chex.assert_trees_all_equal(params, {"cell": quiet})
    assert net.apply(params, x, key=KEY).shape == (2, 5, 3)


def test_a_forward_may_still_ask_whether_there_is_a_key():
    class Maybe(nn.Composite):
        inner: nn.Layer

        def forward(self, x, *, key):
            return self.inner(x) + (0 if key is None else jax.random.normal(key, x.shape))

    net = Maybe(nn.Dense(4))
    params = net.init(KEY, X)
    np.testing.assert_array_equal(net.apply(params, X), nn.Dense(4).apply(params["inner"], X))
