import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from experiments.gallery import pinn
from jaxnn import train

x, program = pinn.data(), pinn.program(pinn.adam())
state, _ = train.fit(
    program, x, key=jax.random.key(0), steps=500, every=250, batch_size=64, progress=False
)
u, solution = train.predict(program, state, x), jnp.sin(jnp.pi * x)
assert abs(u - solution).max() < 0.05

plt.figure(figsize=(5, 3))
plt.plot(x, solution, linewidth=5, alpha=0.4, label="solution")
plt.plot(x, u, label="network")
_ = plt.legend()
