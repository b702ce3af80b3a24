import jax

from experiments.gallery import federated
from jaxnn import data, train

digits = data.mnist_5k()
program = federated.program(width=64)
state, history = train.fit(
    program, federated.clients(digits.train), key=jax.random.key(0), steps=15, every=1,
    batch_size=10, progress=False,
)  # fmt: skip
accuracy = train.evaluate(program, state, digits.test)["accuracy"]
assert accuracy > 0.6  # although each client has two of the ten digits
accuracy
