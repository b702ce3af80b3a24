"""The common parts of both reports: one HTML file each, which opens from disk.

`page` is the document with its sections and tables, and writes numbers and names for readers;
`charts` draws its figures.
"""
