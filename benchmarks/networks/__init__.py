"""Three networks in each library, as its documentation writes them, on the same sizes.

A module offers `resnet()`, `gpt()` and `lstm()`, each a dict from the side's name to a `Sides`. All
train by Adam at 1e-3 on softmax cross entropy, in float32, without dropout.
"""
