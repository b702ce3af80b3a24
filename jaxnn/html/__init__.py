"""The common parts of both reports: one HTML file each, which opens from disk.

`formatting` writes numbers and names for readers, `page` is the document with its sections and
tables, and `charts` draws its figures.
"""
