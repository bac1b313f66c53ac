"""Fitting: a population model and data, a posterior, its verdict; fits on disk."""
