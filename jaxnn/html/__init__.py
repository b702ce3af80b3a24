"""What both reports are drawn with: one HTML file each, which opens from disk.

`page` is the document with its sections and tables, and writes numbers and names for readers;
`charts` draws its figures.
"""
