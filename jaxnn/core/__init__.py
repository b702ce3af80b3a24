"""What a layer is: values, declared parameters, initialisers, paths and keys, binding.

Each file imports only from those before it: `values`, `paths`, `initialisers`, `declarations`,
`rows`, `calls`, `drawing`, `signatures`, `binding`, `layer`, `primitive`, `composite`, `wrapper`,
`pair`.
"""
