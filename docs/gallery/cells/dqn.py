import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from experiments.gallery import dqn
from jaxnn import train

agent = dqn.program(rate=3e-3)
state, _ = train.fit(agent, key=jax.random.key(0), steps=3000, every=1000, progress=False)
states = jnp.arange(dqn.STATES)
found, best = train.predict(agent, state, states), agent.best()
assert (found.argmax(-1) == best.argmax(-1)).all()

plt.figure(figsize=(5, 3))
plt.plot(states, best, color="gray", linewidth=5, alpha=0.4, label=["best, left", "best, right"])
plt.plot(states, found, label=["left", "right"])
plt.xlabel("state")
plt.ylabel("action value")
_ = plt.legend()
