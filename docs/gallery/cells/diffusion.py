import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from experiments.gallery import diffusion
from jaxnn import train

program = diffusion.program(width=64)
state, _ = train.fit(
    program, diffusion.data(), key=jax.random.key(0), steps=500, batch_size=256, progress=False
)
points = diffusion.sample(lambda x, t: program.predict(state, (x, t)), jax.random.key(1), 1000)
radius = jnp.linalg.norm(points, axis=-1).mean()
assert 0.8 < radius < 1.2  # the data are around points of the unit circle

plt.figure(figsize=(3, 3)).gca().set(aspect="equal")
_ = plt.scatter(*points.T, s=2)
