"""Live stacks, read and driven: each source tells the model what it sees and carries out commands."""
