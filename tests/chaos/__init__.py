"""Everything dies under load, and then the books are compared: what clients, handlers and the records say.

    outside.py   a server outside of the platform that counts every handler that begins and ends
    rig.py       the platform on servers that can be killed, stopped and filled
    load.py      clients that do not give up, and the ledger of what they were promised
    faults.py    what goes wrong, in a seeded order
    judge.py     compares the books, once it is quiet
    campaign.py  one whole round of it: `python -m tests.chaos --seconds 180 --seed 1`
"""
