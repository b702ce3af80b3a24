"""The definition of layers, in six files that are read in this order:

`values`, `paths`, `declarations`, `calls`, `layer`, `composite`. Explanations of errors, printing,
and drawing are next to this package, not in it.
"""
