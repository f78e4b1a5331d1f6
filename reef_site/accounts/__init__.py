"""Sign-in, sessions and proofs of identity of the people who use the pages."""
