"""Every attribution method as values and derivatives of M(xi), held against exact effects."""
