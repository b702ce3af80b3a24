import jax
import jax.numpy as jnp

from experiments.gallery import wgan_gp
from jaxnn import train

gan = wgan_gp.program(width=48)
state, history = train.fit(gan, key=jax.random.key(0), steps=200, every=50, progress=False)
noise = jax.random.normal(jax.random.key(2), (1000, wgan_gp.LATENT))
radius = jnp.linalg.norm(train.predict(gan, state, noise), axis=-1).mean()
assert 0.6 < radius < 1.4
history.plot()
