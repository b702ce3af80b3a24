import jax

from experiments.gallery import uncertainty
from jaxnn import data, train

diabetes = data.diabetes()
scale_x, scale_y = (data.Standardizer.fit(part) for part in diabetes.train)
x, y = scale_x(diabetes.train.x), scale_y(diabetes.train.y)
program = uncertainty.ensemble(rate=3e-3)
state, _ = train.fit(
    program, (x, y), key=jax.random.key(0), steps=200, batch_size=32, progress=False
)
mean, std = train.predict(program, state, scale_x(diabetes.test.x))
inside = (abs(mean - scale_y(diabetes.test.y)) < 1.96 * std).mean()
assert inside > 0.8  # 0.95 if the standard deviations are right
float(inside)
