"""Few calls of a network, held against its own fine solution and beside peers."""
