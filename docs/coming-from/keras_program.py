"""The program of the page "Coming from Keras", and what it computes: keras_program.npz.

KERAS_BACKEND=jax python docs/coming-from/keras_program.py        (needs keras)
"""

from pathlib import Path

import keras
import numpy as np

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
y = np.arange(32) % 4

model = keras.Sequential(
    [
        keras.layers.Input((8,)),
        keras.layers.Dense(16, activation="gelu", name="hidden"),
        keras.layers.LayerNormalization(name="norm"),
        keras.layers.Dense(4, name="out"),
    ]
)
model.compile(
    optimizer=keras.optimizers.SGD(0.1),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
start = {weight.path: weight.numpy() for weight in model.weights}
history = model.fit(x, y, batch_size=32, epochs=5, shuffle=False, verbose=0)

np.savez(
    Path(__file__).with_suffix(".npz"),
    x=x,
    y=y,
    losses=history.history["loss"],
    logits=model.predict(x, verbose=0),
    **start,
)
