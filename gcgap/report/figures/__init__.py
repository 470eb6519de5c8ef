"""Figures over seeds: each a pure function of a group of runs, drawn without pyplot."""
