"""Every attribution method as values and derivatives of M(xi), compared with exact effects."""
