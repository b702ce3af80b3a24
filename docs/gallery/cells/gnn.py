import jax

from experiments.gallery import gnn
from jaxnn import train

program = gnn.program(rate=train.Cosine(5e-3, steps=500))
state, history = train.fit(
    program, gnn.data(5000), key=jax.random.key(0), steps=500, batch_size=64, progress=False
)
accuracy = train.evaluate(program, state, gnn.data(5000, seed=1))["accuracy"]
assert 0.65 < accuracy < gnn.best_accuracy() + 0.02
accuracy, gnn.best_accuracy()
