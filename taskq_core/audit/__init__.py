"""The history in Postgres: what carries events there, what keeps them, and what reads them back."""
