"""Pretrained classifiers as Flax modules."""
