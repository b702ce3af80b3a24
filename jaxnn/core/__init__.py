"""What a layer is, in six files that are read in this order.

`values`, `paths`, `declarations`, `calls`, `layer`, `composite`. What explains errors, prints,
and draws is next to this package, and not in it.
"""
