"""The examples of docs/clients.md and of the client's docstrings, run against a real node."""

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse import client
from loghouse.client.blocking import BlockingLog
from loghouse.client.log import AsyncLog
from loghouse.client.loop_thread import LoopThread
from loghouse.testing.process import Certificates, NodeProcess
from tests.processes import in_children

ROOT = Path(__file__).resolve().parent.parent.parent
PLACES = re.compile(r"[abc]\.example:8400(?:,[abc]\.example:8400)*")


def blocks_of(text):
    """The Python blocks of a Markdown text."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def example_of(docstring, indentation):
    """The first indented block of a docstring whose other lines are indented so far, or None."""
    text = re.sub(rf"^ {{{indentation}}}", "", docstring, flags=re.MULTILINE)
    text = re.split(r"\n\n(?:Args|Raises):", text)[0]
    found = re.search(r"\n\n((?:    .*\n?)+)", text)
    return textwrap.dedent(found[1]) if found else None


def examples_of(kind):
    """(name, example) of a class's methods that have one."""
    for name, member in vars(kind).items():
        if inspect.isfunction(member) and member.__doc__ and not name.startswith("_"):
            example = example_of(member.__doc__, 8)
            if example:
                yield f"{kind.__name__}.{name}", example


class ExampleTests(SynchronousTestCase):
    """Whoever copies an example gets what it says."""

    def setUp(self):
        folder = Path(self.mktemp()).absolute()
        self.certificates = Certificates(folder / "certs")
        self.node = NodeProcess(folder / "node", self.certificates)
        self.addCleanup(self.node.close)
        self.node.start()
        self.thread = LoopThread()
        self.addCleanup(self.thread.close, self.nothing)

    async def nothing(self):
        pass

    def adapt(self, text):
        """Put this node and these certificates where the example has others."""
        return PLACES.sub(self.node.address, text).replace('"certs/', f'"{self.certificates.folder}/')

    def run_example(self, name, text, **names):
        printed = []
        names["print"] = lambda *words, **_: printed.append(" ".join(map(str, words)))
        code = compile(self.adapt(text), name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        function = types.FunctionType(code, {"__builtins__": __builtins__, **names})
        result = function()
        if inspect.iscoroutine(result):
            self.thread.run(result)
        return printed

    @in_children
    def test_all(self):
        """Every block of the document runs, and the example of every function and method."""
        self.check_document()
        self.check_methods()
        self.check_functions()

    def check_document(self):
        blocks = blocks_of((ROOT / "docs" / "clients.md").read_text())
        self.assertEqual(len(blocks), 17)
        programs = [text for text in blocks if "react(main)" in text]
        printed = [
            self.run_example(f"docs/clients.md block {n}", text)
            for n, text in enumerate(blocks, 1)
            if text not in programs
        ]
        self.check_programs(*programs)
        self.assertIn("b'sensor-7' b'moved'", printed[0][0])
        self.assertIn("the next offset is", printed[2][-1])
        self.assertIn("the log holds 0 to", printed[5][-1])
        self.assertIn("found up to offset", printed[6][-2])
        self.assertEqual(printed[7], ["imported from line 0 to 3"])
        self.assertEqual(printed[8][-1].split()[1], "b'three'")
        self.assertRegex(printed[9][0], r"^bills: \d+$")
        self.assertEqual(printed[10], ["imported up to byte 14"])
        self.assertEqual({line.split()[0] for line in printed[11]}, {"shop-0", "shop-1", "shop-2"})
        self.assertEqual(printed[12][0], f"node-1 {self.node.address} voter leads")
        self.assertEqual(printed[13][0], "appended at 0")
        self.assertIn("'orders'", printed[13][1])

    def run_program(self, text):
        """An example that runs a reactor is a process of its own; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", self.adapt(text)], capture_output=True, text=True, timeout=60
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.splitlines()

    def check_programs(self, first, of_a_group):
        lines = self.run_program(first)
        self.assertEqual(lines[:3], ["appended up to 1000", "0 b'moved'", "1 b'0'"])
        self.assertEqual((lines[3], lines[-1], len(lines)), ("read b'1'", "ended by CancelledError", 1003))
        records = ["task-0 b'mow'", "task-1 b'mow'"]
        *found, positions = self.run_program(of_a_group)
        self.assertEqual((sorted(found), positions), (records, "{'task-0': 1, 'task-1': 1}"))

    def check_methods(self):
        tls = client.Tls(
            ca=self.certificates.path("ca"),
            certificate=self.certificates.path("root"),
            key=self.certificates.key_path("root"),
        )
        lines = [b"a", b"b"]
        asynchronous = {**dict(examples_of(AsyncLog)), **dict(examples_of(client.AsyncClient))}
        blocking = dict(examples_of(BlockingLog))
        shown = {name.partition(".")[2] for name in asynchronous}
        reading = {"consumer", "newest", "read", "read_batches", "read_page"}
        self.assertEqual(shown, {"append", "log", "producer"} | reading)
        self.assertEqual({name.partition(".")[2] for name in blocking}, {"producer", "read"})

        async def work():
            async with client.connect(self.node.address, tls=tls) as log:
                await log.create_log("orders-00", replicas=1)
                await log.log("orders-00").append(b"order")
                for name, text in asynchronous.items():
                    code = (
                        f"async def example(log, lines, cluster, total=0):\n{textwrap.indent(text, '    ')}"
                    )
                    has_printed = asyncio.Event()
                    names = {"print": lambda *words, told=has_printed: told.set()}
                    exec(compile(code, name, "exec"), names)
                    example = asyncio.ensure_future(names["example"](log, lines, log))
                    if name.endswith(".consumer"):  # it goes on for ever
                        async with asyncio.timeout(60):
                            await has_printed.wait()
                        example.cancel()
                        await asyncio.wait({example})
                        self.assertTrue(example.cancelled(), name)
                    else:
                        await example

        self.thread.run(work())
        with client.connect_blocking(self.node.address, tls=tls) as log:
            for name, text in blocking.items():
                self.run_example(name, text, log=log, lines=lines)

    def check_functions(self):
        names = {name: getattr(client, name) for name in client.__all__}
        for function in (client.connect, client.connect_blocking):
            text = example_of(function.__doc__, 4)
            for name in ("ca.pem", "root.pem", "root.key"):
                text = text.replace(f'"{name}"', f'"{self.certificates.folder}/{name}"')
            self.run_example(function.__name__, text, **names)
        self.run_example("Tls", example_of(client.Tls.__doc__, 4), **names)
