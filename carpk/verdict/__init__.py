"""The verdict on a fit: trust in its draws, doubts about model and data."""
