"""What `up` runs: the supervisor with its plan, the lock of a data folder, the embedded Redis."""
