"""Tests of deepfm.report."""
