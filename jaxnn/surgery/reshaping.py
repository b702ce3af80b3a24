"""Networks in another shape that compute the same function: wider, stacked, and unstacked ones."""
