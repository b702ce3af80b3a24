import jax

import jaxnn as nn
from experiments.gallery import distillation
from jaxnn import data, train

digits = data.mnist_5k()
options = {"key": jax.random.key(0), "epochs": 4, "progress": False}
teacher = nn.Sequential(nn.Dense(256), jax.nn.relu, nn.Dense(10))
taught = distillation.supervised(teacher)
state, _ = train.fit(taught, digits.train, **options)
student = distillation.program(teacher, train.Weights(state.params, state.state), width=32)
learned, _ = train.fit(student, digits.train, **options)
scores = {
    "teacher": train.evaluate(taught, state, digits.test)["accuracy"],
    "student": train.evaluate(student, learned, digits.test)["accuracy"],
}
assert 0.8 < scores["student"] <= scores["teacher"] + 0.02
scores
