"""How records are shown: figures, tables, sentences. Everything here is made from records alone."""
