"""Fixed names and hostile values that several tests hold the surfaces to."""

from __future__ import annotations

SYSTEM_METRICS = (
    "taskq_tasks_submitted_total",
    "taskq_tasks_finished_total",
    "taskq_attempts_total",
    "taskq_task_wait_seconds",
    "taskq_task_run_seconds",
    "taskq_queue_depth",
    "taskq_queue_oldest_seconds",
    "taskq_workers",
    "taskq_worker_busy_slots",
    "taskq_worker_loop_lag_seconds",
    "taskq_relay_backlog_events",
    "taskq_relay_lag_seconds",
    "taskq_redis_memory_bytes",
    "taskq_stream_length",
    "taskq_ledger_unexplained",
)
API_METRICS = (
    "taskq_postgres_query_seconds",
    "taskq_postgres_pool_connections",
    "taskq_http_request_seconds",
    "taskq_ws_clients",
)
FOREIGN_ORIGINS = (
    "https://evil.example",
    "null",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.1",
)
