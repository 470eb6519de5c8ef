"""From records to tables, figures, a page, the terminal and TensorBoard."""
