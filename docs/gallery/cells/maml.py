import jax

from experiments.gallery import maml
from jaxnn import train

program = maml.program()
state, _ = train.fit(
    program, maml.data(), key=jax.random.key(0), steps=800, every=500, batch_size=25,
    progress=False,
)  # fmt: skip
metrics = train.evaluate(program, state, maml.data(2000, seed=1))
assert metrics["loss"] < 0.8 * metrics["before"]
metrics
