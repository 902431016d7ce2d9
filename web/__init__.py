"""Answers people: the public APIs, the webhooks, the reference page. Translates, and leaves every decision to the
verbs of `millrace`. Runs no script, knows no worker and no scheduler.
"""
