"""One measurement: a model in, a record out."""
