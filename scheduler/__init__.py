"""Turns time and events into runs, and repairs what broke.

Any number of schedulers may run at once, on one host or many. None leads: the database gives each due time, each
(event, script) and each repair to one of them. A scheduler keeps nothing that would be lost with it.
"""
