"""Blocks that several methods use. They know nothing else of the zoo."""
