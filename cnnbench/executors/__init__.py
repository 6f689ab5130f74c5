"""Where tasks run: worker processes on this machine or on a Ray cluster, behind one interface."""
