import jax

from experiments.gallery import byol
from jaxnn import data, train

digits = data.mnist_5k()
program = byol.program(width=64)
options = {"key": jax.random.key(0), "batch_size": 256, "progress": False}
start, _ = train.fit(program, digits.train.x, epochs=0, **options)
state, history = train.fit(program, digits.train.x, epochs=8, **options)
untrained, trained = (
    byol.probe(lambda x, s=s: train.predict(program, s, x), digits) for s in (start, state)
)
assert trained > untrained
history.plot()
