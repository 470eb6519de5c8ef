"""What many records say together: statistics over seeds, and what of the paper's claims they bear out. Imports no torch."""
