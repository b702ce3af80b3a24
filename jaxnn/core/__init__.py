"""What a layer is: values, declared parameters, initialisers, paths and keys, binding.

Read in this order: `values`, `paths`, `initialisers`, `declarations`, `drawing`, `calls`,
`binding`, `layer`. Each imports only from those before it.
"""
