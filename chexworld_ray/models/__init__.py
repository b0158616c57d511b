"""Encoder, predictor and their positions."""
