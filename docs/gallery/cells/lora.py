import jax

from experiments.gallery import lora
from jaxnn import train

given, tokens, logits = lora.weights()
assert abs(lora.GPT2.apply(given.params, tokens) - logits).max() < 1e-4  # those of torch

code = lora.source()
test = tuple(rows[:64] for rows in code.test)
program = lora.program(*lora.adapted(lora.GPT2, given), rate=1e-2)
key = jax.random.key(0)
before = train.evaluate(program, program.init(key, test), test)["loss"]
state, _ = train.fit(program, code.train, key=key, steps=40, batch_size=32, progress=False)
after = train.evaluate(program, state, test)["loss"]
assert after < before - 0.1
before, after
