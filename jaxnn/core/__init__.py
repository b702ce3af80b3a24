"""The definition of layers, in six files that are read in this order:

`values`, `paths`, `calls`, `declarations`, `layer`, `composite`. Explanations of errors, printing,
and drawing are next to this package, not in it.
"""
