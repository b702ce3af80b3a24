"""The report of a sweep: one HTML file under a megabyte, which opens from disk.

`write` puts `report.html` into the sweep's folder; `page` is the text of it; `check_library`
raises before a sweep if it could not be drawn. The page is made of sections, a file each:
`headline` (the result), `progress` (best so far, curves), `importance`, `parameters` (slices,
pairs, parallel coordinates), `rungs` (survival, failures), `machine` (programs, settings). They
draw on the scales of `axes`.
"""

from .document import check_library, page, prepared, write

__all__ = ["check_library", "page", "prepared", "write"]
