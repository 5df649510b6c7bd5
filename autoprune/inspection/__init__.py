"""`autoprune inspect`: what can be pruned in a model, what it costs, and how well that is predicted."""
