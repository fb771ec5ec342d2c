"""Transformers whose layers are steps of an accelerated flow."""
