"""Field inversion: find a coefficient field from observations of several experiments."""
