"""Training, distillation, and what makes both quick on a CPU; BatchNorm and weights set right after a cut."""
