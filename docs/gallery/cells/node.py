import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from experiments.gallery import node
from jaxnn import train

program = node.program()
state, _ = train.fit(
    program, node.data(), key=jax.random.key(0), steps=300, every=300, batch_size=128,
    progress=False,
)  # fmt: skip
error = jnp.sqrt(train.evaluate(program, state, node.data(seed=1))["loss"])
assert error < 0.2

plt.figure(figsize=(3, 3)).gca().set(aspect="equal")
for path in node.data(8, times=30, seed=1):
    plt.plot(*path.T)
_ = plt.title("the paths that it learns")
