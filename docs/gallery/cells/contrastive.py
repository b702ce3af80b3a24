import math

import jax

from experiments.gallery import contrastive
from jaxnn import data, train

digits = data.mnist_5k()
program = contrastive.program(width=64)
state, history = train.fit(
    program, digits.train.x, key=jax.random.key(0), epochs=8, batch_size=256, progress=False
)
assert history[-1]["loss"] < math.log(511) - 0.4  # log(511) if all views look the same
history.plot()
