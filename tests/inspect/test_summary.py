"""Every column of a summary against closed forms, sums over parameters, and a table by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
from jaxnn.inspect import flops


def shaped(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


X = shaped(32, 784)
MLP = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))


class MultiHeadAttention(nn.Composite):
    heads: int
    query: nn.Layer
    value: nn.Layer

    def forward(self, x):
        b, t, d = x.shape
        q, v = (
            y.reshape(b, t, self.heads, d // self.heads) for y in (self.query(x), self.value(x))
        )
        return jax.nn.dot_product_attention(q, q, v).reshape(b, t, d)


class Block(nn.Composite):
    norm: nn.Layer
    attention: nn.Layer
    mlp: nn.Layer

    def forward(self, x):
        with jax.named_scope("mlp"):  # a scope of the user's own, called as another layer is
            x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class NextToken(nn.Composite):
    embed: Any
    blocks: nn.Layer
    norm: nn.Layer

    def forward(self, ids):
        return self.embed.attend(self.norm(self.blocks(self.embed(ids))))


def block(n=16):
    mlp = nn.Sequential(up=nn.Dense(2 * n), act=jax.nn.gelu, down=nn.Dense(n))
    return Block(nn.LayerNorm(), MultiHeadAttention(2, nn.Dense(n), nn.Dense(n)), mlp)


class Branching(nn.Composite):
    """Children in tuples and dicts, one without a call, one under a transform of the user's."""

    layers: tuple[nn.Layer, ...]
    heads: dict[str, nn.Layer]
    unused: nn.Layer
    missing: nn.Layer | None = None

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        pair: Any = self.heads["hand"]
        by_hand = jax.vmap(pair.layer.apply, (None, 0))(pair.params, x)
        return self.heads["bound"](x) + jax.vmap(pair)(x) + by_hand


RESIDUAL = nn.Residual(nn.Sequential(nn.BatchNorm(), jnp.tanh, nn.Dense(8)))
NETS: list[tuple[nn.Layer, Any]] = [
    (nn.Dense(5), shaped(2, 3)),
    (MLP, X),
    (nn.Sequential(), shaped(2, 3)),
    (
        NextToken(nn.Embedding(50, 16), nn.Repeat(block(), 3), nn.RMSNorm()),
        shaped(2, 6, dtype="int32"),
    ),
    (nn.Repeat(nn.Remat(block()), 3), shaped(2, 6, 16)),
    (nn.Ensemble(nn.Sequential(nn.Dense(4), nn.BatchNorm()), 5), shaped(2, 3)),
    (nn.Ensemble(nn.Repeat(nn.Dense(4), 3), 5), shaped(2, 4)),
    (
        Branching((RESIDUAL,) * 2, {"hand": nn.Dense(3), "bound": nn.Dense(3)}, nn.Dense(9)),
        shaped(7, 8),
    ),
    (nn.Precision(MLP), X),
    (nn.capture(MLP), X),
    (nn.Parallel(nn.Dense(3), nn.Dense(3), merge=sum), shaped(2, 8)),
    (nn.Sequential(nn.Embedding(10, 4), nn.Dropout(0.5), nn.PReLU()), shaped(2, dtype="int32")),
]


@pytest.mark.parametrize(("net", "x"), NETS, ids=lambda item: type(item).__name__)
def test_totals_are_those_of_the_parameters_the_state_and_the_forward_pass(net, x):
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    state = jax.eval_shape(net.init_state, x)
    total = nn.summary(net, x).total
    assert total.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total.parameter_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(_numpy(params)))
    assert total.state == sum(leaf.size for leaf in jax.tree.leaves(state))
    assert total.state_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(_numpy(state)))
    assert total.flops == flops(lambda p, s, x: net.apply(p, x, state=s), params, state, x)
    if not state:
        assert total.flops == flops(net.apply, params, x)


def _numpy(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize(("net", "x"), NETS, ids=lambda item: type(item).__name__)
def test_a_row_holds_what_the_rows_below_it_hold(net, x):
    rows = nn.summary(net, x).rows
    for path, row in rows.items():
        below = [other for name, other in rows.items() if name.rpartition("/")[0] == path]
        for count in ("parameters", "parameter_bytes", "state", "state_bytes"):
            if below:
                assert getattr(row, count) == sum(getattr(other, count) for other in below)
        assert row.flops >= sum(other.flops for other in below)


@pytest.mark.parametrize(("net", "x"), NETS, ids=lambda item: type(item).__name__)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_depth_leaves_out_deeper_rows_and_changes_no_other(net, x, depth):
    full, short = nn.summary(net, x), nn.summary(net, x, depth=depth)
    kept = {path: row for path, row in full.rows.items() if path.count("/") < depth}
    assert short.rows == kept
    assert short.total == full.total


@pytest.mark.parametrize(("net", "x"), NETS, ids=lambda item: type(item).__name__)
def test_no_line_is_wider_than_a_terminal(net, x):
    assert max(map(len, str(nn.summary(net, x)).split("\n"))) <= 100


def test_dense_by_its_closed_form():
    row = nn.summary(nn.Dense(128), X).total
    assert row.flops == 2 * 32 * 784 * 128 + 32 * 128
    assert (row.parameters, row.parameter_bytes) == (784 * 128 + 128, 4 * (784 * 128 + 128))
    assert (row.layer, row.output) == ("Dense(128)", shaped(32, 128))


def test_rows_by_their_closed_forms():
    rows = nn.summary(MLP, X).rows
    assert list(rows) == ["0", "1", "2"]
    assert [row.flops for row in rows.values()] == [
        2 * 32 * 784 * 128 + 32 * 128,
        32 * 128,
        2 * 32 * 128 * 10 + 32 * 10,
    ]
    assert (rows["1"].layer, rows["1"].parameters) == ("jax.nn.relu", 0)


@pytest.mark.parametrize("wrap", [lambda b: b, nn.Remat, nn.Residual])
def test_repeat_counts_its_block_n_times(wrap):
    one = nn.summary(wrap(block()), shaped(2, 6, 16))
    many = nn.summary(nn.Repeat(wrap(block()), 5), shaped(2, 6, 16))
    assert list(one.rows) == list(many.rows)
    for single, row in [
        (one.total, many.total),
        *zip(one.rows.values(), many.rows.values(), strict=True),
    ]:
        assert (row.parameters, row.flops) == (5 * single.parameters, 5 * single.flops)
        assert row.output == single.output


def test_ensemble_counts_its_network_n_times():
    net = nn.Sequential(nn.Dense(4), nn.BatchNorm())
    one, many = nn.summary(net, shaped(2, 3)), nn.summary(nn.Ensemble(net, 5), shaped(2, 3))
    assert many.total.parameters == 5 * one.total.parameters
    assert many.total.state == 5 * one.total.state
    assert many.total.output == shaped(5, 2, 4)
    assert many.rows["0"].output == shaped(2, 4)
    assert many.rows["0"].flops == 5 * one.rows["0"].flops


def test_a_layer_called_twice_counts_its_parameters_once_and_both_calls():
    net = NextToken(nn.Embedding(50, 16), nn.Sequential(), nn.Sequential())
    row = nn.summary(net, shaped(2, 6, dtype="int32")).rows["embed"]
    assert row.parameters == 50 * 16
    assert row.flops == 2 * (2 * 6) * 16 * 50  # the lookup is free, the head is a product
    assert row.output == shaped(2, 6, 16)

    class Twice(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return self.inner(self.inner(x))

    row = nn.summary(Twice(nn.Dense(3)), shaped(2, 3)).rows["inner"]
    assert (row.parameters, row.flops) == (12, 2 * (2 * 2 * 3 * 3 + 2 * 3))


def test_scopes_of_the_user_and_calls_by_hand_find_their_rows():
    rows = nn.summary(block(), shaped(2, 6, 16)).rows
    assert rows["attention/query"].flops == 2 * 12 * 16 * 16 + 12 * 16
    assert rows["mlp"].flops == sum(rows[f"mlp/{name}"].flops for name in ("up", "act", "down"))
    rows = nn.summary(*NETS[7]).rows
    assert rows["heads/hand"].flops == 2 * rows["heads/bound"].flops == 2 * (2 * 7 * 8 * 3 + 7 * 3)
    assert (rows["unused"].flops, rows["unused"].parameters, rows["unused"].output) == (0, 0, None)
    assert (rows["layers"].layer, rows["layers"].output) == ("2 layers", None)
    assert rows["layers"].flops == 2 * rows["layers/0"].flops
    assert "missing" not in rows


def test_a_forward_reads_its_children_as_ever():
    class Reading(nn.Composite):
        inner: Any
        number: int

        def forward(self, x):
            assert isinstance(self.inner.layer, nn.Repeat)
            assert repr(self.inner.layer) == "Repeat(Dense(3), 4)"
            return self.inner(x) * self.inner.n * self.inner.inner.features * self.number

    row = nn.summary(nn.Sequential(Reading(nn.Repeat(nn.Dense(3), 4), 7)), shaped(2, 3)).rows[
        "0/inner"
    ]
    assert row.flops == 4 * (2 * 2 * 9 + 2 * 3)


def test_functions_that_jax_caches_count_where_they_stand():
    rows = nn.summary(
        nn.Sequential(jax.nn.relu, jax.nn.silu, jax.nn.relu, jax.nn.silu), shaped(5)
    ).rows
    assert [row.flops for row in rows.values()] == [5, 10, 5, 10]


def test_wrappers_add_no_row():
    net = nn.Sequential(a=nn.Repeat(nn.Remat(nn.Residual(nn.Dense(3))), 4))
    summary = nn.summary(net, shaped(2, 3))
    assert list(summary.rows) == ["a"]
    assert summary.rows["a"].layer == "Repeat(Remat(Residual(Dense(3))), n=4)"
    assert summary.rows["a"].flops == 4 * (2 * 2 * 9 + 2 * 3 + 2 * 3)


def test_a_network_larger_than_any_memory():
    big = nn.Repeat(block(2**13), 2**10)
    summary = nn.summary(big, shaped(64, 2**11, 2**13))
    norm, attention, mlp = 2 * 2**13, 2 * (2**26 + 2**13), 2 * 2**27 + 2**14 + 2**13
    assert summary.total.parameters == 2**10 * (norm + attention + mlp)
    assert "1.5 TiB" in str(summary)
    assert max(map(len, str(summary).split("\n"))) <= 100


def test_arrays_and_shapes_give_the_same():
    assert nn.summary(MLP, jnp.zeros((32, 784))) == nn.summary(MLP, X)


def test_named_inputs():
    class Scaled(nn.Composite):
        inner: nn.Layer

        def forward(self, x, *, scale):
            return self.inner(x) * scale

    summary = nn.summary(Scaled(nn.Dense(4)), shaped(2, 3), scale=shaped())
    assert summary.inputs == "float32[2,3], scale=float32[]"
    assert summary.total.flops == 2 * 2 * 3 * 4 + 2 * 4 + 2 * 4


def test_a_table_checked_by_hand():
    net = nn.Sequential(dense=nn.Dense(4, bias=False), relu=jax.nn.relu, out=nn.Dense(1000))
    lines = str(nn.summary(net, shaped(2, 3))).split("\n")
    # Dense: 2*2*3*4 = 48; relu: 2*4 = 8; Dense: 2*2*4*1000 + 2*1000 = 18,000.
    # 3*4 = 12 weights of 4 bytes; 4*1000 + 1000 = 5,000 of them are 20,000 bytes, 19.5 KiB.
    assert lines == [
        "Path   Layer                 Output       Parameters     Bytes   FLOPs",
        "──────────────────────────────────────────────────────────────────────",
        "dense  Dense(4, bias=False)  f32[2,4]             12    48 B      48",
        "relu   jax.nn.relu           f32[2,4]              0     0 B       8",
        "out    Dense(1000)           f32[2,1000]       5,000  19.5 KiB  18.0 k",
        "──────────────────────────────────────────────────────────────────────",
        "total  Sequential            f32[2,1000]       5,012  19.6 KiB  18.1 k",
        "──────────────────────────────────────────────────────────────────────",
        "parameters  5,012 (19.6 KiB)",
        "state       0 (0 B)",
        "FLOPs       18,056 in one forward pass of float32[2,3]",
    ]


def test_state_has_a_column_where_there_is_any():
    text = str(nn.summary(nn.Sequential(nn.Dense(4), nn.BatchNorm()), shaped(2, 3)))
    head, _, _, norm, *_ = text.split("\n")
    assert head.split() == ["Path", "Layer", "Output", "Parameters", "Bytes", "State", "FLOPs"]
    assert norm.split()[3:7] == ["8", "32", "B", "8"]
    assert "state       8 (32 B)" in text


def test_html_holds_the_same_and_escapes_it():
    def named(x):
        return x

    named.__qualname__ = "<script>"
    summary = nn.summary(nn.Sequential(nn.Dense(1000), named), shaped(2, 3))
    page = summary._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<b>0</b> Dense(1000) <i>f32[2,1000] · 4,000 parameters · 14.0 k FLOPs</i>" in page
    assert "<div><b>w</b> f32[3,1000]</div><div><b>b</b> f32[1000]</div>" in page
    assert page.count("<details") == 2 and "parameters: 4,000 (15.6 KiB)" in page
    assert repr(summary) == str(summary)


def test_long_texts_are_cut_and_paths_keep_their_end():
    deep: nn.Layer = nn.Dense(4)
    for name in ("inner", "a_long_name", "another_long_name", "a_name_that_is_longer_still") * 2:
        deep = nn.Sequential(**{name: deep})
    lines = str(nn.summary(deep, shaped(2, 3))).split("\n")
    assert max(map(len, lines)) <= 100
    assert lines[-7].startswith("…") and "a_long_name/inner  Dense(4)" in lines[-7]


def test_errors_say_what_is_wanted_and_where():
    with pytest.raises(TypeError, match=r"summary.net must be a layer, got \(1, 2\)"):
        nn.summary((1, 2), X)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"summary.depth must be None or an int >= 0, got .*; it is"
    ):
        nn.summary(MLP, X, depth=-1)
    net = nn.Sequential(blocks=nn.Repeat(nn.Sequential(hidden=nn.Dense(3)), 2))
    with pytest.raises(ValueError, match=r"at 'blocks'.*keep its shape"):
        nn.summary(net, shaped(2, 4))
    with pytest.raises(TypeError, match="at 'embed', Embedding"):
        nn.summary(nn.Sequential(embed=nn.Embedding(5, 4)), shaped(2))


def test_the_network_is_left_as_it_is():
    before = hash(MLP), repr(MLP), dict(vars(MLP))
    nn.summary(MLP, X)
    assert (hash(MLP), repr(MLP), dict(vars(MLP))) == before


def test_lambdas_print_without_their_address():
    summary = nn.summary(nn.Sequential(lambda x: x + 1), shaped(3))
    assert "lambda" in summary.rows["0"].layer and "0x" not in str(summary)


def test_both_directions():
    """One layer stands at two paths, and each has the outputs and the FLOPs of its own."""
    net = nn.Bidirectional(nn.Recurrent(nn.GRUCell(4)))
    rows = nn.summary(net, shaped(2, 5, 3)).rows
    assert rows["forward"].flops == rows["backward"].flops > 0
    assert rows["forward"].output.shape == rows["backward"].output.shape == (2, 5, 4)


def test_a_forward_that_draws_in_inference_is_summarized():
    """Such as the objective of a variational autoencoder, which gets a key at every evaluation."""

    class Noisy(nn.Composite):
        inner: nn.Layer

        def forward(self, x, *, key):
            return self.inner(x + jax.random.normal(key, x.shape)).mean()

    row = nn.summary(Noisy(nn.Dense(3)), jax.ShapeDtypeStruct((2, 5), "float32")).total
    assert (row.parameters, row.output.shape) == (5 * 3 + 3, ())
