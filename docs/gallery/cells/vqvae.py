import jax
import matplotlib.pyplot as plt

from experiments.gallery import vqvae
from jaxnn import data, train

digits, program = data.mnist_5k(), vqvae.program(width=64, rate=3e-3)
state, _ = train.fit(program, digits.train.x, key=jax.random.key(0), epochs=10, progress=False)
x = digits.test.x[:8]
codes = train.predict(program, state, x)
assert ((codes - x) ** 2).mean() < 0.08
_, axes = plt.subplots(2, 8, figsize=(8, 2))
for axis, image in zip(axes.ravel(), [*x, *codes], strict=True):
    axis.imshow(image.reshape(28, 28), cmap="gray_r")
    axis.axis("off")
