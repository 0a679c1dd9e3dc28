"""steps.py, plan.py, predict.py, convergence.py, make.py, carry_out.py, journal.py."""
