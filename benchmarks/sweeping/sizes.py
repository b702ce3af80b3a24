"""The sizes that jaxnn and its peers share, in a file that imports nothing."""

# Ten batches of training examples an epoch, so 100 steps in all; what is left is for validation.
BATCH, STEPS, EPOCHS = 128, 10, 10
WIDTHS = (64, 32, 32, 10)
# The learning rates that are searched, log-uniformly.
RATES = (1e-4, 1e-1)
# Of `tuned`: the widths of both hidden layers; weight decays, log-uniformly; and momenta.
TRIED_WIDTHS = (16, 32, 64)
DECAYS = (1e-5, 1e-1)
MOMENTA = (0.5, 0.99)
# Of `search`, whose trials are longer: what a trial costs is to train, and not to begin.
LONG_EPOCHS = 100
