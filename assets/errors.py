"""The root of all errors that are raised on purpose."""

from __future__ import annotations


class HeadwaterError(Exception):
    """Its text is for a person: the rule, the value found, where, and what to do. Whoever talks to a person shows it as
    it is, without a traceback; every other exception is a bug, or the machine's fault (machine_faults.py)."""
