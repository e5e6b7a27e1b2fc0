"""Several training runs over a grid of hyperparameters."""
