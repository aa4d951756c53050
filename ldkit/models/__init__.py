"""Detectors: pixels in, predictions out; always the same type."""
