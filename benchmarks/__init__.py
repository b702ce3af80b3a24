"""jaxnn side by side with its peers: `python -m benchmarks [NAME ...]`.

A claim is a ratio between sides that were measured in turns, so that a disturbance of the machine
hits all of them alike; the absolute numbers hold for one machine on one day.

    step      one call of a compiled training step
    fit       the training loop of a small network, per step
    epoch     one epoch of digits, by each library's own way
    init      drawing the parameters of a transformer, first and second time
    imports   importing a library
    repeat    compiling repeated blocks, scanned against unrolled
    sweep     64 trials of a small network, from the command to the results
    tuners    the same by Optuna, Ray Tune, and KerasTuner
    search    the best loss by rounds of a search, against one trial at a time
    thousand  a thousand trials in process, against a bare loop
    hundred_thousand  the ledger of as many tiny trials: asking, writing, reading, the report
    lanes     the way that a sweep chooses for its lanes, against all of them
    models    ResNet-18, a GPT and an LSTM: forward pass, training step, compiling it
    decode    GPT-2 a token at a time, with a cache and without
    watched   a run with records and checkpoints, against one with neither
    memory    what many programs in one process leave in memory, against hand-written jax
    sharded   calling a step on eight simulated devices, against raw jit

Each of these is a file with a `run() -> Result`. `peers/` and `networks/` hold what is compared,
`sweeping/` what the sweeps train, `timing` measures in turns, `fresh` measures in new processes,
`report` writes RESULTS.md.
"""
