"""replace by pattern, and with parameters."""

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
from jaxnn.models import GPT
from tests.cases import KEY
from tests.layers.agreement import normals
from tests.near import assert_near

X = normals(0, 2, 3)
OTHER = jax.random.key(7)
BODY = nn.Repeat(nn.Residual(nn.Sequential(norm=nn.LayerNorm(), mlp=nn.Dense(3))), 2)
HEAD = nn.Sequential(nn.Dense(4), jnp.tanh, nn.Dense(5))
NET = nn.Sequential(body=BODY, norm=nn.LayerNorm(), head=HEAD)


@pytest.fixture(scope="module")
def params():
    return NET.init(KEY, X)


def test_a_pattern_of_layers():
    assert nn.replace(NET, "**/norm", nn.RMSNorm()) == nn.Sequential(
        body=nn.Repeat(nn.Residual(nn.Sequential(norm=nn.RMSNorm(), mlp=nn.Dense(3))), 2),
        norm=nn.RMSNorm(),
        head=HEAD,
    )
    assert nn.replace(NET, "head/*", nn.Tap()) == nn.replace(
        NET, "head", nn.Sequential(nn.Tap(), nn.Tap(), nn.Tap())
    )
    assert nn.replace(NET, "he??", jnp.sin) == nn.replace(NET, "head", jnp.sin)
    both = nn.Bidirectional(nn.Sequential(nn.Dense(2), nn.Recurrent(nn.GRUCell(2))))
    assert nn.replace(both, "*/0", nn.Dense(3)) == nn.replace(both, "forward/0", nn.Dense(3))


def test_the_outer_one_of_layers_within_each_other():
    assert nn.replace(NET, "**", nn.Tap()) == nn.Sequential(
        body=nn.Tap(), norm=nn.Tap(), head=nn.Tap()
    )


def test_a_pattern_of_settings_where_no_layer_fits():
    net = GPT(layers=1, width=4, num_heads=1, dropout=0.5).network(3)
    calm = nn.replace(nn.replace(net, "**/dropout/rate", 0.0), "**/attention/dropout", 0.0)
    assert calm == GPT(layers=1, width=4, num_heads=1).network(3)
    layer = nn.EncoderLayer(nn.MultiHeadAttention(2), nn.Dense(4))
    assert nn.replace(layer, "*norm*", nn.RMSNorm()) == nn.EncoderLayer(
        nn.MultiHeadAttention(2),
        nn.Dense(4),
        attention_norm=nn.RMSNorm(),
        feed_forward_norm=nn.RMSNorm(),
    )


def test_others_keep_their_parameters(params):
    net, carried = nn.replace(NET, "**/norm", nn.RMSNorm(), params, OTHER, X)
    assert net == nn.replace(NET, "**/norm", nn.RMSNorm())
    assert set(carried["norm"]) == {"scale"}
    assert carried["head"][0]["w"] is params["head"][0]["w"]
    assert carried["body"]["mlp"]["w"] is params["body"]["mlp"]["w"]
    net.apply(carried, X)


def test_what_is_replaced_is_fresh_even_of_the_same_shape(params):
    net, carried = nn.replace(NET, "head", HEAD, params, OTHER, X)
    fresh = net.init(OTHER, X)
    chex.assert_trees_all_equal(carried["head"], fresh["head"])
    assert (carried["head"][0]["w"] != params["head"][0]["w"]).all()
    assert carried["body"]["mlp"]["w"] is params["body"]["mlp"]["w"]


def test_a_setting_keeps_what_still_fits(params):
    _, carried = nn.replace(NET, "head/2/features", 9, params, OTHER, X)
    assert carried["head"][2]["w"].shape == (4, 9)
    assert carried["head"][0]["w"] is params["head"][0]["w"]
    _, carried = nn.replace(NET, "**/eps", 1e-3, params, OTHER, X)
    chex.assert_trees_all_equal(carried, params)
    _, carried = nn.replace(NET, "**/bias", False, params, OTHER, X)
    assert set(carried["head"][0]) == {"w"} and set(carried["norm"]) == {"scale"}
    assert carried["head"][0]["w"] is params["head"][0]["w"]


def test_a_layer_without_parameters_and_the_inside_of_wrappers(params):
    net, carried = nn.replace(NET, "norm", nn.Tap(), params, OTHER, X)
    x = nn.Sequential(body=BODY).apply({"body": params["body"]}, X)
    expected = HEAD.apply(params["head"], x)
    assert_near(net.apply(carried, X), expected)
    _, carried = nn.replace(NET, "body/inner", nn.Dense(3), params, OTHER, X)
    assert jax.tree.map(jnp.shape, carried["body"]) == {"b": (2, 3), "w": (2, 3, 3)}


def test_refused(params):
    with pytest.raises(
        ValueError, match=r"no layer of .* and no setting .*'\*/x'; the paths .*: body, body/norm"
    ):
        nn.replace(NET, "*/x", nn.Tap())
    with pytest.raises(
        ValueError,
        match=r"with 'head/0' replaced, parameters elsewhere no longer fit: head/2/w: now "
        r"\(7, 5\), the parameters have float32\[4,5\]; .*nn.widen",
    ):
        nn.replace(NET, "head/0", nn.Dense(7), params, OTHER, X)
    with pytest.raises(ValueError, match="not those of this network"):
        nn.replace(NET, "head", nn.Tap(), {**params, "norm": {}}, OTHER, X)
    with pytest.raises(
        TypeError, match=r"parameters require a key, and a key requires parameters; write\s"
    ):
        nn.replace(NET, "head", nn.Tap(), params)  # type: ignore[call-overload]
