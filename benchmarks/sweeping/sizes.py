"""The sizes that jaxnn and its peers share, in a file that imports nothing."""

# Ten batches of training examples an epoch, so 100 steps in all; what is left is for validation.
BATCH, STEPS, EPOCHS = 128, 10, 10
WIDTHS = (64, 32, 32, 10)
# The learning rates that are searched, log-uniformly.
RATES = (1e-4, 1e-1)
