import jax
import matplotlib.pyplot as plt

from experiments.gallery import vae
from jaxnn import data, train

digits, program = data.digits(), vae.program((64,), rate=5e-3)
state, _ = train.fit(
    program, digits.train.x, key=jax.random.key(0), steps=800, every=800, progress=False
)
assert train.evaluate(program, state, digits.test.x, key=jax.random.key(1))["bound"] < -5

noise = jax.random.normal(jax.random.key(2), (10, vae.LATENT))
sample = program.objective.apply(state.params, noise, method="decode")
_, axes = plt.subplots(1, 10, figsize=(8, 1))
for axis, image in zip(axes, sample.reshape(-1, 8, 8), strict=True):
    axis.imshow(image, cmap="gray_r")
    axis.axis("off")
