import jax
import matplotlib.pyplot as plt

from experiments.gallery import normalizing_flow
from jaxnn import train

program = normalizing_flow.program(couplings=4, rate=3e-3)
state, _ = train.fit(
    program, normalizing_flow.data(10_000), key=jax.random.key(0), steps=300, batch_size=256,
    progress=False,
)  # fmt: skip
loss = train.evaluate(program, state, normalizing_flow.data(10_000, seed=1))["loss"]
assert normalizing_flow.ENTROPY < loss < normalizing_flow.ENTROPY + 0.4
sample = train.predict(program, state, jax.random.normal(jax.random.key(1), (2000, 2)))
plt.figure(figsize=(3, 3))
_ = plt.scatter(*sample.T, s=2)
