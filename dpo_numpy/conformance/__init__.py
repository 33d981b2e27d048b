"""What other implementations are held against: stored values, and the conventions that libraries follow."""
