"""Field inversion: a coefficient field is found from observations of several experiments."""
