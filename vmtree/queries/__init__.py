"""Raw SQL of the tree: recursion over parents, nodes, tokens, and bulk writes."""
