import jax

from experiments.gallery import multi_input
from jaxnn import train

rows, program = multi_input.tumors(), multi_input.program(rate=3e-2)
every_row = len(rows["train"]["weight"])
state, _ = train.fit(
    program, rows["train"], key=jax.random.key(0), steps=500, batch_size=every_row, every=500,
    progress=False,
)  # fmt: skip
found = train.evaluate(program, state, rows["test"])
expected = multi_input.by_sklearn(rows["train"], rows["test"])
assert abs(found["accuracy"] - expected["accuracy"]) < 0.03
{name: (found[name], expected[name]) for name in expected}
