"""jaxnn on one GPU, in less than eight minutes: `python -m benchmarks gpu [PART ...]`.

`driver` runs the parts one after the other, each in its own process with a time limit, so that a
part that fails or hangs does not cost the others; it prints what they print and rewrites
`benchmarks/RESULTS-GPU.md` after each. A part is a function of `small`, which asks for sizes that a
CPU can run, and it yields lines of markdown:

    training      GPT-2 124M in bfloat16 by jaxnn, flax nnx, equinox, and torch.compile; and what
                  costs how much in jaxnn's step
    images        ResNet-50 in bfloat16 by jaxnn, flax nnx, and torch.compile
    sequences     an LSTM against cuDNN's, and decoding with GPT-2, against torch
    trials        a thousand trials as lanes of one program, and as a process for each
    layers        attention by its implementations; the first network by `fit`; its lanes
    correctness   every case of tests/cases.py against the CPU; gradients summed in bfloat16
"""
