"""What may be decided, and a policy: a choice for each decision."""
