"""What is under deploy/ for monitoring: rules and a dashboard that name metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import yaml
from twisted.trial.unittest import SynchronousTestCase

from loghouse.http.metric_table import HISTOGRAM, TABLE
from tests.http.promql import SECONDS, firing

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "loghouse.json"
MONITORING = ROOT / "docs" / "monitoring.md"
OTHERS = {
    "up",
    "process_open_fds",
    "process_max_fds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
}
METRIC = re.compile(r"\b(?:loghouse|process)_[a-z_]+|\bup\b")


def rules():
    """The alert rules."""
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def known():
    """The names of all series."""
    names = set(OTHERS)
    for name, described in TABLE.items():
        ends = ("_bucket", "_sum", "_count") if described.kind == HISTOGRAM else ("",)
        names.update(name + end for end in ends)
    return names


def series(name, value, **labels):
    return {(name, frozenset({"instance": "n1", **labels}.items())): value}


def cursor(**values):
    """The series of a cursor."""
    names = {"lag": "lag_records", "held": "held", "idle": "idle_seconds"}
    return {
        key: one
        for name, value in values.items()
        for key, one in series(f"loghouse_cursor_{names[name]}", value, log="a", cursor="b").items()
    }


class AlertTests(SynchronousTestCase):
    """Each rule fires for what it is for, and not before; what to do is written down."""

    # What is scraped before and after, when all is well and when it is not. None: as before.
    PROVOKED = {
        "LoghouseNodeDown": (series("up", 1, job="loghouse"), series("up", 0, job="loghouse")),
        "LoghouseNotReady": (series("loghouse_ready", 1), series("loghouse_ready", 0)),
        "LoghouseNoLeader": "no_leader",
        "LoghouseBehind": "behind",
        "LoghouseDiskFull": "disk_full",
        "LoghouseDiskNotWritable": "disk_not_writable",
        "LoghouseDamageRemains": "damaged_log",
        "LoghouseFollowerSilent": (
            series("loghouse_peer_silence_seconds", 0.3, peer="n2"),
            series("loghouse_peer_silence_seconds", 31, peer="n2"),
        ),
        "LoghouseLeaderChanges": (
            series("loghouse_leader_changes_total", 3),
            series("loghouse_leader_changes_total", 14),
        ),
        "LoghouseDiskFilling": (
            {**series("loghouse_disk_free_bytes", 50), **series("loghouse_disk_size_bytes", 100)},
            {**series("loghouse_disk_free_bytes", 14), **series("loghouse_disk_size_bytes", 100)},
        ),
        "LoghouseSlowDisk": ("loghouse_disk_sync_seconds", 0.01, 0.2),
        "LoghouseSlowAppends": ("loghouse_append_seconds", 0.01, 1.5),
        "LoghouseEventLoopLate": ("loghouse_event_loop_delay_seconds", 0.001, 0.06),
        "LoghouseCursorUnheld": (cursor(lag=4, held=1, idle=1), cursor(lag=9, held=0, idle=1)),
        "LoghouseCursorStuck": (cursor(lag=4, held=1, idle=299), cursor(lag=4, held=1, idle=301)),
        "LoghouseDamageFound": (
            series("loghouse_damage_found_total", 1),
            series("loghouse_damage_found_total", 2),
        ),
        "LoghouseCertificateExpires": (
            series("loghouse_certificate_expiry_timestamp_seconds", 86400 * 15, file="ca"),
            series("loghouse_certificate_expiry_timestamp_seconds", 86400 * 13, file="ca"),
        ),
        "LoghouseRestartNeeded": (
            series("loghouse_settings_waiting", 0),
            series("loghouse_settings_waiting", 2),
        ),
        "LoghouseRefusedCallers": (
            series("loghouse_requests_refused_total", 5, error="PermissionDeniedError"),
            series("loghouse_requests_refused_total", 5 + SECONDS, error="PermissionDeniedError"),
        ),
        "LoghouseShareUsedUp": (
            series("loghouse_share_refusals_total", 5, resource="calls"),
            series("loghouse_share_refusals_total", 5 + SECONDS, resource="calls"),
        ),
        "LoghouseFramesDropped": (
            series("loghouse_peer_frames_dropped_total", 0, peer="n2"),
            series("loghouse_peer_frames_dropped_total", 11 * SECONDS, peer="n2"),
        ),
        "LoghouseFewDescriptors": (
            {**series("process_open_fds", 50), **series("process_max_fds", 100)},
            {**series("process_open_fds", 86), **series("process_max_fds", 100)},
        ),
    }

    def states(self, found):
        """Return the scrapes when all is well, and when it is not."""
        if isinstance(found, str):
            name = "loghouse_hindered_logs"
            return series(name, 0, reason=found), series(name, 2, reason=found)
        if len(found) == 2:
            return found
        name, well, unwell = found

        def histogram(mean):
            return {**series(f"{name}_count", 100), **series(f"{name}_sum", 100 * mean)}

        return histogram(well), histogram(unwell)

    def test_provoked(self):
        """Every rule, by what its expression says of what is scraped."""
        self.assertEqual(
            [rule["alert"] for rule in rules()], [*dict.fromkeys(one["alert"] for one in rules())]
        )
        self.assertEqual({rule["alert"] for rule in rules()}, set(self.PROVOKED))
        for rule in rules():
            well, unwell = self.states(self.PROVOKED[rule["alert"]])
            is_mean = "_sum" in rule["expr"]
            self.assertEqual(firing(rule["expr"], {} if is_mean else well, well), [], rule["alert"])
            fired = firing(rule["expr"], {} if is_mean else well, unwell)
            self.assertEqual([labels["instance"] for labels in fired], ["n1"], rule["alert"])
            # What the summary shows is there.
            for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
                self.assertIn(label, [*fired[0], "instance", "api", "error"], rule["alert"])

    def test_cursors_at_rest(self):
        """A cursor without work, one whose holder goes on, and one of a batch job raise no alarm."""
        expressions = {rule["alert"]: rule["expr"] for rule in rules()}
        for alert, before, after in (
            ("Unheld", cursor(lag=9, held=0, idle=1), cursor(lag=9, held=0, idle=9)),
            ("Unheld", cursor(lag=9, held=0, idle=1), cursor(lag=4, held=0, idle=9)),
            ("Unheld", cursor(held=0, idle=1), cursor(held=0, idle=99)),
            ("Stuck", cursor(lag=0, held=1, idle=1), cursor(lag=0, held=1, idle=9999)),
            ("Stuck", cursor(lag=9, held=0, idle=1), cursor(lag=9, held=0, idle=9999)),
            ("Stuck", cursor(held=1, idle=1), cursor(held=1, idle=9999)),
        ):
            self.assertEqual(firing(expressions[f"LoghouseCursor{alert}"], before, after), [], after)

    def test_documented(self):
        """docs/monitoring.md has each rule's expression, how long it must hold, what it means, what to do."""
        found = dict(re.findall(r"(?m)^### (Loghouse\w+)\n\n((?:(?!^#).*\n)+)", MONITORING.read_text()))
        self.assertEqual(list(found), [rule["alert"] for rule in rules()])
        for rule in rules():
            text = found[rule["alert"]]
            lasting = f" for {rule['for']}" if "for" in rule else ""
            self.assertIn(f"`{rule['expr']}`{lasting} ({rule['labels']['severity']}).", text)
            self.assertGreaterEqual(text.count("\n\n"), 2, rule["alert"])
            anchor = rule["annotations"]["runbook"]
            self.assertEqual(anchor, f"docs/monitoring.md#{rule['alert'].lower()}")

    def test_names(self):
        """Every series that a rule or a panel names is one that nodes have."""
        for expression in [*(rule["expr"] for rule in rules()), *expressions()]:
            for name in METRIC.findall(expression):
                self.assertIn(name, known(), expression)

    def test_promtool(self):
        """Prometheus' own tool takes the rules, where it is installed."""
        promtool = shutil.which("promtool")
        if promtool is not None:
            subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True, capture_output=True)


def panels():
    return json.loads(DASHBOARD.read_text())["panels"]


def expressions():
    """Every query of the dashboard."""
    return [target["expr"] for panel in panels() for target in panel.get("targets", ())]


class DashboardTests(SynchronousTestCase):
    """The dashboard is what Grafana imports."""

    def test_form(self):
        """What Grafana needs of a dashboard, and of each panel."""
        dashboard = json.loads(DASHBOARD.read_text())
        self.assertEqual((dashboard["uid"], dashboard["title"]), ("loghouse", "Loghouse"))
        self.assertIsInstance(dashboard["schemaVersion"], int)
        names = [one["name"] for one in dashboard["templating"]["list"]]
        self.assertEqual(names, ["datasource", "instance"])
        ids = [panel["id"] for panel in panels()]
        self.assertEqual(len(ids), len(set(ids)))
        taken = set()
        for panel in panels():
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], 24)
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells
            if panel["type"] != "row":
                self.assertIn(panel["type"], ("stat", "timeseries"))
                self.assertTrue(panel["title"] and panel["fieldConfig"]["defaults"]["unit"])
                self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                refs = [target["refId"] for target in panel["targets"]]
                self.assertEqual(len(refs), len(set(refs)))

    def test_queries(self):
        """Queries have their brackets, and every one is of the nodes that were chosen."""
        for expression in expressions():
            for left, right in ("()", "{}", "[]"):
                self.assertEqual(expression.count(left), expression.count(right), expression)
            for name in METRIC.findall(expression):
                self.assertIn(f'{name}{{instance=~"$instance"', expression)
