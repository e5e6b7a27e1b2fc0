"""Training: presets, losses, augmentation, the trainer."""
