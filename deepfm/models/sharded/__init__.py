"""Embedding tables that processes share out, on TorchRec, which only this package knows."""
