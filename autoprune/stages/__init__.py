"""The steps of a job, in the order in which a run takes them."""
