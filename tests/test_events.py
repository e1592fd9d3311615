"""Events of modules that run with Twisted and without it."""

import logging
from types import SimpleNamespace

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from loghouse.runtime import events
from loghouse.runtime.events import Logger


class Speaker:
    """Has something to say."""

    logger = Logger()


class EventTests(SynchronousTestCase):
    """An event goes to the log that the process keeps."""

    def speak(self):
        logger = Speaker().logger
        for say in (logger.debug, logger.info, logger.warn, logger.error, logger.critical):
            say("{what} happened", what="it")
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError as error:
            logger.failure("answering {who}", error, who="Ann")

    def test_with_twisted(self):
        """Where Twisted's logger is in use, it gets every event, by the name of the class."""
        seen = []
        globalLogPublisher.addObserver(seen.append)
        self.addCleanup(globalLogPublisher.removeObserver, seen.append)
        self.speak()
        self.assertEqual(
            [event["log_level"].name for event in seen],
            ["debug", "info", "warn", "error", "critical", "critical"],
        )
        self.assertEqual({event["log_namespace"] for event in seen}, {"tests.test_events.Speaker"})
        self.assertEqual(seen[0]["what"], "it")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_without(self):
        """Elsewhere Python's `logging` gets them, formatted; an error with its traceback."""
        self.patch(events, "sys", SimpleNamespace(modules={}))
        seen = []

        class Handler(logging.Handler):
            def emit(self, record):
                seen.append(record)

        logger = logging.getLogger("tests.test_events.Speaker")
        before = logger.level, logger.propagate
        handler = Handler()
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        self.addCleanup(logger.removeHandler, handler)
        self.addCleanup(logger.setLevel, before[0])
        self.addCleanup(setattr, logger, "propagate", before[1])
        self.speak()
        self.assertEqual([record.levelno for record in seen], [10, 20, 30, 40, 50, 50])
        self.assertEqual(seen[0].getMessage(), "it happened")
        self.assertEqual(seen[-1].getMessage(), "answering Ann")
        self.assertIs(seen[-1].exc_info[0], ZeroDivisionError)
