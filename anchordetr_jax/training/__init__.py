"""From batches to checkpoints: the optimiser, the sharded step, saving and resuming, and the loop around them."""
