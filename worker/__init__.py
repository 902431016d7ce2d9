"""Carries one run from claim to record.

A message names a run and an attempt. The worker gathers what the run needs, takes a jail, claims the run in
the database, sends the job, ships the log while the handler goes on, and records how it ended. Whatever a
message says, the database decides: a message may come twice, late, or for a run that has ended, and nothing
happens then.

It answers no person and decides nothing about when a run starts; that is for `web` and `scheduler`.
"""
