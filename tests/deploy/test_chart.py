"""The Helm chart: its files by themselves and, where there is a helm, what it makes of them."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse import __version__
from loghouse.auth.identity import node_uri
from loghouse.auth.policy import Authorizer
from loghouse.cli.certs import MODEL_TEXT, POLICY_TEXT
from tests.deploy.recipes import CHART, go_program, instructions, settings_of
from tests.processes import in_children

TOOLS = CHART.parents[2] / "build" / "tools"
TYPES = {"object": dict, "array": list, "string": str, "integer": int}


def problems(value, schema, path="values"):
    """Yield what a schema has against a value; of JSON Schema as much as the chart's uses."""
    if "enum" in schema:
        if value not in schema["enum"]:
            yield f"{path}: {value!r} is none of {schema['enum']}"
        return
    if not isinstance(value, TYPES[schema["type"]]):
        yield f"{path}: {value!r} is no {schema['type']}"
        return
    if isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (f"{path}: {name} is missing" for name in schema.get("required", ()) if name not in value)
        forbidden = schema.get("propertyNames", {}).get("not", {}).get("enum", ())
        for name, inner in value.items():
            if name in forbidden or (name not in known and schema.get("additionalProperties") is False):
                yield f"{path}: {name} may not be there"
            elif name in known:
                yield from problems(inner, known[name], f"{path}.{name}")
    elif value == "" and schema.get("minLength"):
        yield f"{path}: it is empty"
    elif isinstance(value, int) and value < schema.get("minimum", value):
        yield f"{path}: {value} is too small"


class ChartTests(SynchronousTestCase):
    """deploy/helm/loghouse, as files."""

    def setUp(self):
        self.values = yaml.safe_load((CHART / "values.yaml").read_text())
        self.schema = json.loads((CHART / "values.schema.json").read_text())

    def test_chart(self):
        """The chart is of this version."""
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["apiVersion"], chart["name"]), ("v2", "loghouse"))
        self.assertEqual(chart["appVersion"], __version__)

    def test_values(self):
        """The values pass their schema, which knows each of them."""
        self.assertEqual(list(problems(self.values, self.schema)), [])
        self.assertEqual(set(self.schema["properties"]) - {"global"}, set(self.values))

    def test_refused(self):
        """The schema refuses an even number of nodes, settings that are the chart's, names that are none."""
        for path, value in (
            ("replicas", 2),
            ("settings", {"listen": "0.0.0.0:1"}),
            ("storage", {"sise": "1Gi", "size": "1Gi"}),
            ("certificates", {}),
            ("certificates", {"secret": "s", "issuer": {"name": "ca", "kind": "Issuers"}}),
            ("podDisruptionBudget", {"maxUnavailable": 0}),
        ):
            self.assertEqual(len(list(problems({**self.values, path: value}, self.schema))), 1, path)

    def test_used(self):
        """Templates use values that there are, and all of them."""
        used = set()
        for path in (CHART / "templates").iterdir():
            for name in re.findall(r"\.Values\.([A-Za-z.]+)", path.read_text()):
                value = self.values
                for part in name.split("."):
                    self.assertIn(part, value, f"{path.name}: .Values.{name}")
                    value = value[part]
                used.add(name.partition(".")[0])
        self.assertEqual(used, set(self.values))

    def test_policy(self):
        """The policy and its model are those that `loghouse certs init` begins with."""
        self.assertEqual(self.values["acl"], {"policy": POLICY_TEXT, "model": MODEL_TEXT})

    def test_probes(self):
        """Life is /healthz, with the patience that it asks for, and readiness /readyz."""
        text = (CHART / "templates" / "statefulset.yaml").read_text()
        probes = dict(
            re.findall(r"(\w+)Probe:\n +httpGet: \{path: (/\w+), port: http, scheme: HTTPS\}", text)
        )
        self.assertEqual(probes, {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"})
        user = dict(instructions()[-1])["USER"].partition(":")[0]
        for name in ("runAsUser", "runAsGroup", "fsGroup"):
            self.assertIn(f"{name}: {user}\n", text)


def find_helm():
    """Return the path of a helm, None if there is none."""
    return shutil.which("helm", path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")


def helm(*values):
    """Run `helm template` with such values, `path=value` each."""
    # Built from source, helm takes itself for one of Kubernetes 1.20.
    command = [find_helm(), "template", "prod", CHART, "--namespace", "logs", "--kube-version", "1.30.0"]
    command += [word for value in values for word in ("--set", value)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def objects_of(case, done):
    """Return what was drawn, by kind and name."""
    case.assertEqual(done.returncode, 0, done.stderr)
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


class RenderedTests(SynchronousTestCase):
    """What Go makes of the templates, with the functions that helm gives it; helm itself takes minutes."""

    def setUp(self):
        self.program = go_program(self, "chart")

    def render(self, *values):
        """Return the objects by kind and name."""
        command = [self.program, "prod", CHART, "logs", *values]
        return objects_of(self, subprocess.run(command, capture_output=True, text=True, timeout=60))

    def settings(self, objects):
        """Return each node's settings, read as the node would."""
        found = objects["ConfigMap", "prod-loghouse"]["data"]
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        for name in ("model.conf", "policy.csv"):
            (folder / name).write_text(found[name])
        Authorizer(folder / "model.conf", folder / "policy.csv")
        names = sorted(name for name in found if name.endswith(".yaml"))
        return [settings_of(found[name], folder, "/etc/loghouse-certs/") for name in names]

    @in_children
    def test_objects(self):
        """There is one object of each kind that a cluster needs, and they fit each other."""
        objects = self.render()
        self.assertEqual(
            sorted(objects),
            [
                ("ConfigMap", "prod-loghouse"),
                ("PodDisruptionBudget", "prod-loghouse"),
                ("Service", "prod-loghouse"),
                ("Service", "prod-loghouse-nodes"),
                ("StatefulSet", "prod-loghouse"),
            ],
        )
        pods = objects["StatefulSet", "prod-loghouse"]["spec"]
        self.assertEqual((pods["serviceName"], pods["replicas"]), ("prod-loghouse-nodes", 3))
        labels = pods["template"]["metadata"]["labels"]
        for selector in (
            pods["selector"]["matchLabels"],
            objects["Service", "prod-loghouse"]["spec"]["selector"],
            objects["Service", "prod-loghouse-nodes"]["spec"]["selector"],
            objects["PodDisruptionBudget", "prod-loghouse"]["spec"]["selector"]["matchLabels"],
            pods["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        ):
            self.assertEqual(selector, {name: labels[name] for name in selector})
        nodes = objects["Service", "prod-loghouse-nodes"]["spec"]
        self.assertEqual((nodes["clusterIP"], nodes["publishNotReadyAddresses"]), ("None", True))

    @in_children
    def test_settings(self):
        """Each pod finds settings of its name that a node takes; the first one begins the cluster."""
        for count in (1, 3, 5):
            objects = self.render(f"replicas={count}", "settings.retention.bytes=1GiB")
            configs = self.settings(objects)
            names = [f"prod-loghouse-{number}" for number in range(count)]
            self.assertEqual([config.name for config in configs], names)
            self.assertEqual([config.bootstrap for config in configs], [True] + [False] * (count - 1))
            addresses = [f"{name}.prod-loghouse-nodes.logs.svc:8400" for name in names]
            self.assertEqual([str(config.public_address) for config in configs], addresses)
            for config in configs:
                self.assertEqual([str(one) for one in config.join], addresses if count > 1 else [])
                self.assertEqual(config.retention.size_max, 1 << 30)
                self.assertEqual(config.tls.key.name, f"{config.name}.key")
            [container] = objects["StatefulSet", "prod-loghouse"]["spec"]["template"]["spec"]["containers"]
            self.assertEqual(container["args"], ["loghouse", "--config", "/etc/loghouse/$(POD_NAME).yaml"])
            places = {one["mountPath"] for one in container["volumeMounts"]}
            self.assertEqual(places, {"/etc/loghouse", "/etc/loghouse-certs", "/var/lib/loghouse", "/tmp"})

    @in_children
    def test_cert_manager(self):
        """With an issuer each pod has a certificate of a node's name, in the files that its settings name."""
        objects = self.render("certificates.issuer.name=ca", "cluster=c1")
        mounted = set()
        [certificates] = [
            one["projected"]["sources"]
            for one in objects["StatefulSet", "prod-loghouse"]["spec"]["template"]["spec"]["volumes"]
            if one["name"] == "certificates"
        ]
        for config, source in zip(self.settings(objects), certificates, strict=True):
            spec = objects["Certificate", config.name]["spec"]
            self.assertEqual(spec["uris"], [node_uri("c1", config.name)])
            self.assertIn(config.public_address.host, spec["dnsNames"])
            self.assertEqual(spec["issuerRef"], {"name": "ca", "kind": "Issuer"})
            self.assertLessEqual({"server auth", "client auth"}, set(spec["usages"]))
            self.assertEqual(spec["secretName"], source["secret"]["name"])
            files = {item["path"]: item["key"] for item in source["secret"]["items"]}
            self.assertEqual(files[config.tls.certificate.name], "tls.crt")
            self.assertEqual(files[config.tls.key.name], "tls.key")
            mounted |= set(files)
        self.assertIn("ca.pem", mounted)
        self.assertEqual([kind for kind, _ in self.render() if kind == "Certificate"], [])

    @in_children
    def test_as_helm(self):
        """Where there is a helm, it makes the same."""
        if find_helm() is None:
            raise SkipTest("there is no helm here; `make tools` compiles one")
        for values in ((), ("replicas=5",), ("certificates.issuer.name=ca", "service.annotations.a=b")):
            self.assertEqual(self.render(*values), objects_of(self, helm(*values)), values)


class HelmTests(SynchronousTestCase):
    """What helm itself says."""

    @in_children
    def test_refused(self):
        """It refuses what the schema refuses."""
        if find_helm() is None:
            raise SkipTest("there is no helm here; `make tools` compiles one")
        for value in ("replicas=2", "settings.listen=x", "storage.sise=1Gi"):
            done = helm(value)
            self.assertNotEqual(done.returncode, 0, value)
            self.assertIn("schema", done.stderr)
