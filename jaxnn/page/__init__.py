"""What reports are made of: one HTML file each, that opens from disk and asks for nothing else.

`document` is the whole page, `html` its parts, `style` how it looks in light and in dark; `drawing`
makes figures in the page's colors, `ticks` their axes, `words` numbers and names for readers.
"""
