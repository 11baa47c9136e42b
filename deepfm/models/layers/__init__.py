"""Layers take ints and tensors, never a schema or a config.

Shapes are written with one legend throughout the package:
    B batch, F fields, D embedding dim, L sequence length, H CIN feature maps, A attention dim.
"""
