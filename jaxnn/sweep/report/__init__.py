"""The report of a sweep: one HTML file under a megabyte, which opens from disk.

`write` puts `report.html` into the sweep's folder; `page` is the text of it; `untold` says before a
sweep what it will lack. The page is made of sections, a file each: `headline` (the result),
`progress` (best so far, curves), `importance`, `parameters` (slices, pairs, parallel coordinates),
`rungs` (survival, failures), `machine` (programs, settings). They draw by `drawing` on the scales
of `axes`, and `style` is how it looks.
"""

from .page import page
from .writing import prepared, untold, write

__all__ = ["page", "prepared", "untold", "write"]
