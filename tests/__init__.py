"""The tests mirror jaxnn; `cases` is the one table that drives every layer through every law."""
