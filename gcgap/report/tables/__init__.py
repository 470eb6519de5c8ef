"""Tables over seeds: each a pure function of a group of runs."""
