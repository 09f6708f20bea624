"""Every network and where it comes from: the restorer B and its parts, the tiny build, the evaluation networks,
published checkpoints and their conversion, personal weights on disk, precision and memory options. Imports only the
leaves (`lib.errors`, `lib.paths`, `lib.checks`, `lib.images`).
"""
