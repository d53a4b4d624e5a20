"""The processes of taskq: the command line, the whole system in one, the API, the sample tasks."""
