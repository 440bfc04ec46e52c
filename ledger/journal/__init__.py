"""The crash-safe spool between ``Run.log()`` and the log.

``file`` is the format, ``facts`` what it holds, ``carry`` takes it into the log.
"""
