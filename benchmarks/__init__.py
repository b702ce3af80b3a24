"""jaxnn side by side with its peers: `python -m benchmarks [NAME ...]`.

A claim is a ratio between sides that were measured in turns, so that a disturbance of the machine
hits all of them alike; the absolute numbers hold for one machine on one day.

    step      one call of a compiled training step
    fit       the training loop of a small network, per step
    epoch     one epoch of digits, by each library's own way
    init      drawing the parameters of a transformer, first and second time
    imports   importing a library
    repeat    compiling repeated blocks, scanned against unrolled

Each of these is a file with a `run() -> Result`. `peers/` holds what is compared, `timing` measures
in turns, `fresh` measures in new processes, `report` writes RESULTS.md.
"""
