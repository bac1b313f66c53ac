"""Structural models and studies by name; what lies behind a model, text by text."""
