"""Tables that answer lists and searches, folded from the log in the transaction of every append.

``intake`` and ``fold`` are pure; ``keeping`` writes the tables, ``sql`` asks them, ``memory`` gives the same answers
without a database.
"""
