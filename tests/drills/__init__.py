"""What the cluster promises when something fails, tried out: real processes on loopback, real faults, figures asserted.

Each `test_NN_….py` is one promise. `make test` runs them in a short form, `make drills` in full; the figures are the
same, only the time and the number of tries differ. What each drill measured is printed at the end of the run.
"""
