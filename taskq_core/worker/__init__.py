"""The worker: a supervisor that owns leases and processes, and runners that run the code."""
