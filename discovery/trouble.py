"""Trouble that lasts, told once: a registry that is away for an hour must not fill the log."""

from __future__ import annotations

import logging


class Trouble:
    """What is wrong with one thing at the moment: told when it begins or changes, and when it is over."""

    def __init__(self, log: logging.Logger, relief: str) -> None:
        self._log = log
        self._relief = relief
        self._told: str | None = None

    def report(self, sentence: str, level: int = logging.WARNING) -> None:
        """It goes wrong, for this reason."""
        if sentence != self._told:
            self._log.log(level, "%s", sentence)
            self._told = sentence

    def over(self) -> None:
        """It works."""
        if self._told is not None:
            self._log.info("%s", self._relief)
            self._told = None
