"""Trackers: where runs are reported besides the store, while they train. One module a tracker."""

from runner.store.trackers.base import Tracker, tracker

__all__ = ["Tracker", "tracker"]
