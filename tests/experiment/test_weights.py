"""Weights survive a file to the bit, and a file that does not fit is refused path by path."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxnn as nn
from jaxnn import train
from jaxnn.train.weights import packed

X = jax.ShapeDtypeStruct((1, 5), jnp.float32)
LAYERS = nn.Dense(4), nn.BatchNorm(), jax.nn.relu, nn.Repeat(nn.Dense(4), 3)
NET = nn.Sequential(*LAYERS)


class Half(nn.Primitive):
    def parameters(self, x):
        return {"w": nn.Param((2, 3), nn.normal(1.0), jnp.bfloat16), "s": nn.Param(())}

    def forward(self, params, x):
        return x


def weights(net, x=X):
    return train.Weights(net.init(jax.random.key(0), x), net.init_state(x))


def saved(tmp_path, net=NET, x=X):
    file = tmp_path / "weights.safetensors"
    train.save_weights(file, net, weights(net, x))
    return file


@pytest.mark.parametrize(
    "net",
    [
        NET,
        nn.Sequential(first=nn.Dense(3), second=nn.Sequential(), third=nn.Dropout(0.5)),
        Half(),
        nn.Sequential(),
    ],
)
def test_parameters_and_state_come_back_to_the_bit(tmp_path, net):
    before = weights(net)
    after = train.load_weights(saved(tmp_path, net), net, X)
    assert jax.tree.structure(after.params) == jax.tree.structure(before.params)
    assert jax.tree.structure(after.state) == jax.tree.structure(before.state)
    for one, other in zip(
        jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
    ):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_arrays_that_lie_column_by_column_are_saved_as_they_read(tmp_path):
    net = nn.Dense(3, bias=False)
    w = np.asfortranarray(np.arange(15, dtype=np.float32).reshape(5, 3))
    file = tmp_path / "weights.safetensors"
    train.save_weights(file, net, train.Weights({"w": w}, {}))
    np.testing.assert_array_equal(train.load_weights(file, net, X).params["w"], w)


def test_the_header_says_what_the_file_is(tmp_path):
    raw = saved(tmp_path).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["__metadata__"]["network"] == repr(NET)
    assert header["__metadata__"]["schema"] == "1"
    assert header["__metadata__"]["jax"] == jax.__version__
    assert "state/1/mean" in header
    assert header["params/3/w"]["shape"] == [3, 4, 4]


def test_every_path_that_does_not_fit_is_listed(tmp_path):
    other = nn.Sequential(nn.Dense(6), nn.BatchNorm(), jax.nn.relu, nn.Dense(2, bias=False))
    file = saved(tmp_path, other)
    with pytest.raises(ValueError) as caught:
        train.load_weights(file, NET, X)
    message = str(caught.value)
    assert "does not hold the weights of Sequential(Dense(4), BatchNorm()" in message
    for line in (
        "params/0/w: expected float32[5,4], got float32[5,6]",
        "params/3/w: expected float32[3,4,4], got float32[6,2]",
        "params/3/b: expected float32[3,4], got nothing",
        "state/1/mean: expected float32[4], got float32[6]",
        f"It was written for {other!r}.",
    ):
        assert line in message
    with pytest.raises(ValueError, match=r"params/3/b: expected nothing, got float32\[3,4\]"):
        train.load_weights(saved(tmp_path), other, X)


def test_another_type_is_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    half = {"w": np.zeros((5, 3), np.float16), "b": np.zeros(3, np.float32)}
    train.save_weights(file, nn.Dense(3), train.Weights(half, {}))
    with pytest.raises(ValueError, match=r"params/w: expected float32\[5,3\], got float16\[5,3\]"):
        train.load_weights(file, nn.Dense(3), X)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    file = saved(tmp_path)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
        train.load_weights(file, NET, X)


def test_a_file_of_another_make_is_refused(tmp_path):
    file = tmp_path / "other.safetensors"
    file.write_bytes(safetensors.numpy.save({"w": np.zeros(3)}))
    with pytest.raises(ValueError, match="expected a file of jaxnn's schema 1, got format None"):
        train.load_weights(file, NET, X)
    with pytest.raises(FileNotFoundError):
        train.load_weights(tmp_path / "none", NET, X)


def test_the_same_weights_are_the_same_bytes():
    contents = {packed(NET, weights(NET)) for _ in range(4)}
    assert len(contents) == 1


OTHER = nn.Sequential(encoder=nn.Sequential(*LAYERS), head=nn.Dense(2))


def test_what_is_renamed_left_out_and_kept_is_said_path_by_path(tmp_path):
    file = tmp_path / "weights.safetensors"
    trained = weights(OTHER)
    train.save_weights(file, OTHER, trained)
    net = nn.Sequential(*LAYERS, nn.Dense(7))
    fresh = train.Weights(net.init(jax.random.key(9), X), net.init_state(X))
    loaded = train.load_weights(
        file, net, X,
        rename={"params/encoder": "params", "state/encoder": "state"},
        leave_out=["params/head/*"], start=fresh, keep=["params/4/**"],
    )  # fmt: skip
    np.testing.assert_array_equal(loaded.params[0]["w"], trained.params["encoder"][0]["w"])
    np.testing.assert_array_equal(loaded.params[4]["w"], fresh.params[4]["w"])
    assert loaded.params[3]["w"].shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leave_out": ["params/heda/*"]}, "leave_out: 'params/heda/*' matches none of params/"),
        (
            {"rename": {"params/encodr": "params"}},
            "rename has 'params/encodr', which is not a path of",
        ),
        ({"rename": {"params/head": "params/encoder/0"}}, "gives 'params/encoder/0/b' to two"),
        ({"keep": ["params/head/*"]}, "start and keep belong together: write start="),
        ({"keep": ["params/x"], "start": None}, "start and keep belong together: write start="),
        ({"leave_out": ["params/head/*"]}, "params/head/b: expected float32[2], got nothing"),
    ],
)
def test_what_is_said_wrong_is_told(tmp_path, options, message):
    with pytest.raises(ValueError) as caught:
        train.load_weights(saved(tmp_path, OTHER), OTHER, X, **options)
    assert message in str(caught.value)


def test_a_hostile_file_leads_nowhere(tmp_path):
    """Names are only compared; a header that points outside of the file is refused."""
    raw = packed(NET, weights(NET))
    size = int.from_bytes(raw[:8], "little")

    def file(header):
        text = json.dumps(header).encode()
        written = tmp_path / "weights.safetensors"
        written.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
        return written

    header = json.loads(raw[8 : 8 + size])
    escaped = {k.replace("params/0", "../../params/0"): v for k, v in header.items()}
    with pytest.raises(ValueError, match=r"\.\./\.\./params/0/w: expected nothing, got float32"):
        train.load_weights(file(escaped), NET, X)
    outside = header | {"params/0/b": header["params/0/b"] | {"data_offsets": [0, 10**12]}}
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        train.load_weights(file(outside), NET, X)
    huge = tmp_path / "weights.safetensors"
    huge.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        train.load_weights(huge, NET, X)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["weights.safetensors"]
