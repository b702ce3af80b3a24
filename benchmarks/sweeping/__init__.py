"""The programs of the benchmarks of sweeps, some of them in separate processes.

digits   the experiment: small networks on digits, a search for a learning rate
tuned    the experiment of `tuners` and `search`: a width and three numbers
sizes    the sizes that their peers share
optuna_  the search of `digits` by Optuna, around another library's program
trial    one trial of it in a separate process
tuners   the search of `tuned` by Optuna, Ray Tune, and KerasTuner
plain    the training of their trials in jax and optax alone
alone    the search of `tuned` by Optuna's TPE around `train.fit`
"""
