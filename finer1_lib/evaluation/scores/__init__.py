"""Scores: from what a model wrote to numbers, without a model."""
