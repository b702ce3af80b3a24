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
# Of `search`, whose trials are longer: what a trial costs is to train, and not to begin. More than
# half of the examples validate: after 300 steps on 1,280 of them, a learning rate that is 0.1 %
# larger changes the loss of a good trial by a quarter (standard deviation, median of six trials).
# The best of a search would be mostly luck. Here it changes by 1 %.
LONG_EPOCHS, LONG_ROWS = 100, 640
