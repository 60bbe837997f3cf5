"""Doing the plan: tasks, executors, the ledger."""
