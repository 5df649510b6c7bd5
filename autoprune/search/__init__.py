"""The problem that every searcher gets: scores, rewards, budgets, and trials that are never lost."""
