"""The programs of the benchmarks of sweeps, some of them in separate processes.

digits   the experiment: small networks on digits, a search for a learning rate
sizes    the sizes that its peers share
optuna_  the same search by Optuna, around another library's program
trial    one trial of it in a separate process
"""
