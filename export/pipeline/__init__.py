"""From a checkpoint to a published artifact."""
