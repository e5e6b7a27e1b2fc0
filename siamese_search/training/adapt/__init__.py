"""Learning without a label: images are clustered, the clusters are learned as identities, and both again each epoch."""
