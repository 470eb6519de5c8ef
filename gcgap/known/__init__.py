"""Models with hand-set weights whose circuit is known, to hold attribution methods against: see `gcgap.known.models`."""
