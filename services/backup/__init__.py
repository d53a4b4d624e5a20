"""Backup and restore: both stores in one file, and nothing that was accepted is lost.

The history is read first, in one snapshot; Redis after it, as one snapshot too. Redis is the truth, and its
event stream still holds what happened in between: a consumer group of our own keeps it from being trimmed.
A restore sets the relay back to where the history ends, and the relay carries those events over again; what
the history has already changes nothing. So the two stores meet, whatever happened during the backup, and the
incarnation stays: no event gets a second identity. A task that was running starts again once its lease ends.
"""

from services.backup.restoring import restore
from services.backup.writing import Made, write_backup

__all__ = ["Made", "restore", "write_backup"]
