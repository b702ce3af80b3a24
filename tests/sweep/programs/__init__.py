"""Experiments of programs that are no supervised fits, each as small as it can be."""
