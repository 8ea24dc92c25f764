"""What recipes share: requests, models with their data, results, checkpoints, processes."""
