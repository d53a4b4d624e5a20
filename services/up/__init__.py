"""`taskq up`: the whole system on this machine, started, watched and stopped together.

`main` talks to the terminal, `system` starts and stops everything, `roles` says what the child processes are,
`supervise` keeps them running, `card` writes what is printed when all is ready.
"""
