"""The directory that `deepfm export` writes: what is in it, and how it is read without torch."""
