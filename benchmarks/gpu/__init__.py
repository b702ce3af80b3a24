"""jaxnn on one GPU, in at most five minutes: `python -m benchmarks gpu`.

`driver` runs the parts one after the other, each in its own process with a time limit, so that a
part that fails or hangs does not cost the others; it prints what they print and rewrites
`benchmarks/RESULTS-GPU.md` after each. A part is a function of `small`, which asks for sizes that a
CPU can run, and it yields lines of markdown:

    training      GPT-2 124M in bfloat16 by jaxnn, flax nnx, and torch.compile
    correctness   every case of tests/cases.py against the CPU; gradients summed in bfloat16
    layers        fused attention against our own; the first network by fit; its lanes
"""
