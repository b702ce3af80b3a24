import jax

from experiments.gallery import seq2seq
from jaxnn import train

net = seq2seq.network(layers=1)
program = seq2seq.program(net, rate=3e-3)
state, _ = train.fit(
    program, seq2seq.data(10_000), key=jax.random.key(0), steps=600, batch_size=100, progress=False
)
(source, _), target = seq2seq.data(200, seed=1)
found, scores = seq2seq.beam_search(net, state.params, source, 2)
share = (found == target).all(-1).mean()
assert share > 0.8
source[0], found[0], float(share)
