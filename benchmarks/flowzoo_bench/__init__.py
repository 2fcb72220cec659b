"""The comparison harness: tasks, metrics, planning, running and reporting."""
