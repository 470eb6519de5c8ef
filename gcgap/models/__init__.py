"""Networks, and where their components are: gcgap's transformer, pretrained families, loading, number formats."""
