"""What every process of Millrace shares: settings, models, stores, and the verbs that decide.

No HTTP server, no queue actor and no jail lives here; those are the packages `web`, `worker` and `sandbox`.
"""
