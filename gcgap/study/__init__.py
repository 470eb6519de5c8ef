"""Many records together: groups, statistics over seeds, and what two papers claim."""
