import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from experiments.gallery import score_based
from jaxnn import train

program = score_based.program()
state, _ = train.fit(
    program, score_based.data(20_000), key=jax.random.key(0), steps=400, batch_size=256,
    progress=False,
)  # fmt: skip
assert train.evaluate(program, state, score_based.data(5000, seed=1))["fisher"] < 0.6

side = jnp.linspace(-2.5, 2.5, 60)
plane = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
energy = train.predict(program, state, plane).reshape(60, 60)
plt.figure(figsize=(3, 3))
_ = plt.contourf(side, side, jnp.exp(energy.min() - energy), levels=12)
