"""Tests from a table: each row is a test of its own, with its name and its docstring."""


class Rows:
    """Makes a method `test` of a test case one test for each row, `test_<name>`.

    A row is the test's docstring, then the arguments that the method is given.
    """

    def __init__(self, **rows):
        self._rows = rows

    def __call__(self, method):
        self._method = method
        return self

    def __set_name__(self, owner, name):
        delattr(owner, name)
        for row, (docstring, *arguments) in self._rows.items():
            setattr(owner, f"{name}_{row}", self._made(docstring, arguments))

    def _made(self, docstring, arguments):
        def test(case):
            return self._method(case, *arguments)

        test.__doc__ = docstring
        return test
