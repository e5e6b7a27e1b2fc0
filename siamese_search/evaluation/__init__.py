"""Accuracy reports: protocol, ranking metrics, verification metrics, plots."""
