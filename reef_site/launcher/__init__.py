"""The processes of `up`: supervisor and its plan, lock of a data folder, embedded Redis."""
