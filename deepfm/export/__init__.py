"""Trained models as graphs for other runtimes; what they are read with is `deepfm.exported`."""
