"""What was measured, on disk: the two kinds of record, their form, their checksum, and how they are written."""
