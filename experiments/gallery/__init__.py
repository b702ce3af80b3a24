"""Research programs, one per file: each states what it is, its paper, and its expected number."""
