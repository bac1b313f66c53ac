"""Differential equations: events, the adaptive route and the mesh."""
