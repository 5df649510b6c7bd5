"""Which level answers: signals, trust, the router's environment and learner."""
