"""Every error of the package, found by looking: copied, passed on, and plain about what may be done."""

import concurrent.futures
import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil

from twisted.trial.unittest import SynchronousTestCase

import loghouse
from loghouse import errors
from loghouse.client.failures import CallFailedError, CallFailure, Effect
from loghouse.errors import LoghouseError
from tests.processes import in_children

GIVEN = {
    "Sequence[str]": ("one: wrong", "two: worse"),
    "str": "text",
    "int": 7,
    "str | None": "n1",
    "LoghouseError": errors.OffsetOutOfRangeError(1, 2, 3),
    "CallFailure": CallFailure(error=errors.ExpectOffsetError(1, 2), effect=Effect.REFUSED, leader="n1"),
}


def error_classes():
    """Every class of an error that a module of the package defines."""
    found = set()
    for module in pkgutil.walk_packages(loghouse.__path__, "loghouse."):
        if module.name.startswith(
            ("loghouse.testing", "loghouse.tap", "loghouse.runtime.reactor")
        ) or module.name.endswith("__main__"):
            continue
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, Exception) and member.__module__.startswith("loghouse."):
                found.add(member)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def example(kind):
    """Make one, with something for each of its parameters."""
    if "__init__" not in vars(kind) and not any(
        "__init__" in vars(base) for base in kind.__mro__ if base.__module__.startswith("loghouse.")
    ):
        return kind("the text")
    arguments, named = [], {}
    for parameter in inspect.signature(kind.__init__).parameters.values():
        if parameter.name == "self":
            continue
        value = GIVEN.get(str(parameter.annotation), parameter.default)
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            arguments.append(value)
    return kind(*arguments, **named)


def raise_again(error):
    """What a worker process does."""
    error.add_note("from a worker")
    raise error


def shown(value):
    """Attributes, with errors inside as their type, text and attributes."""
    if isinstance(value, BaseException):
        return type(value), str(value), {name: shown(one) for name, one in vars(value).items()}
    if isinstance(value, CallFailure):
        return shown(value.error), value.effect, value.leader
    return value


class EveryErrorTests(SynchronousTestCase):
    """One test over all classes: a new one is found by itself."""

    def test_all_are_found(self):
        """There are as many as there should be, those of the client among them."""
        found = error_classes()
        self.assertGreater(len(found), 40)
        self.assertIn(CallFailedError, found)
        self.assertEqual(
            {kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)}
            - set(found),
            set(),
        )

    def test_copies(self):
        """Pickled with any protocol, copied and copied deeply, it is the same: type, text and attributes."""
        for kind in error_classes():
            error = example(kind)
            error.extra = ["an attribute of a caller"]
            ways = [copy.copy, copy.deepcopy]
            ways += [
                lambda one, number=number: pickle.loads(pickle.dumps(one, number))  # noqa: S301 - our own
                for number in range(pickle.HIGHEST_PROTOCOL + 1)
            ]
            for way in ways:
                again = way(error)
                self.assertIs(type(again), kind)
                self.assertIsNot(again, error)
                self.assertEqual(shown(again), shown(error), kind)
                self.assertEqual(repr(again), repr(error), kind)

    @in_children
    def test_process_pool(self):
        """Raised in a worker process it arrives in its parent as it was."""
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            for kind in error_classes():
                error = example(kind)
                again = pool.submit(raise_again, error).exception()
                self.assertIs(type(again), kind)
                self.assertEqual(again.__notes__, ["from a worker"])
                del again.__notes__
                self.assertEqual(shown(again), shown(error), kind)

    def test_what_may_be_done(self):
        """Each says whether the call may be made again, and whether the record is in the log."""
        kinds = [kind for kind in error_classes() if issubclass(kind, LoghouseError)]
        for kind in kinds:
            error = example(kind)
            self.assertIn(error.may_retry, (True, False), kind)
            self.assertIn(error.was_appended, (True, False, None), kind)
            if error.may_retry:
                self.assertIs(error.was_appended, False, kind)  # or it would be there twice
        again = {
            kind
            for kind in vars(errors).values()
            if inspect.isclass(kind) and issubclass(kind, LoghouseError) and kind.may_retry
        }
        self.assertEqual(
            again,
            {
                errors.NotLeaderError,
                errors.UnavailableError,
                errors.DeadlineError,
                errors.PeerTimeoutError,
                errors.ResourceExhaustedError,
                errors.QuotaExceededError,
                errors.DiskFullError,
            },
        )
        self.assertIsNone(errors.OutcomeUnknownError("?").was_appended)
        for kind in kinds:
            if issubclass(kind, errors.RequestError) and not issubclass(kind, errors.OutcomeUnknownError):
                self.assertIs(example(kind).was_appended, False, kind)
