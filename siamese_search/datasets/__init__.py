"""Data sets: records, directory layouts, identity-disjoint splits, samplers, the synthetic demo set."""
