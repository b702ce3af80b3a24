import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.gallery import hypernetwork
from jaxnn import train

program = hypernetwork.program(width=64)
state, _ = train.fit(
    program, hypernetwork.data(50_000), key=jax.random.key(0), steps=800, batch_size=256,
    progress=False,
)  # fmt: skip
x = np.linspace(-2, 2, 101, dtype=np.float32)
for scale in (-1, 0, 1):
    code = np.tile(np.float32([scale, 0.5]), (101, 1))
    y = train.predict(program, state, (x[:, None], code))
    plt.plot(x, y, label=f"code ({scale}, 0.5)")
    assert np.abs(np.ravel(y) - (scale * np.sin(2 * x) + 0.5)).mean() < 0.2
_ = plt.legend()
