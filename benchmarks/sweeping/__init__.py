"""What the benchmarks of sweeps run, some of it in processes of its own.

digits   the experiment: small networks on digits, a learning rate to find
sizes    the sizes that its peers share
optuna_  the same search by Optuna, around another library's program
trial    one trial of it in a process of its own
"""
