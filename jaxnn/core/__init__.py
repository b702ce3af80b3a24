"""What a layer is: values, declared parameters, initializers, paths and keys, binding.

Each file imports only from those before it: `values`, `paths`, `initializers`, `declarations`,
`rows`, `calls`, `drawing`, `signatures`, `binding`, `layer`, `primitive`, `composite`, `wrapper`,
`pair`.
"""
