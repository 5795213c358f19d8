"""Several runs in one command: replicas, and the processes that share them."""
