"""node.yaml and the files that it names, read again by a node that runs: all of them are taken, or none.

What can change is marked where a setting is declared. The rest is compared, told, and waits for a start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography import x509

from loghouse.auth.credentials import Credentials, Material
from loghouse.auth.policy import Authorizer, Rules
from loghouse.config.declaring import Setting, settings_of
from loghouse.config.settings import NodeConfig, load
from loghouse.config.values import format_size, quota_text
from loghouse.errors import ConfigError, LoghouseError, ReloadRefusedError
from loghouse.node.api import Reloaded
from loghouse.service.proving import paths_of_tls


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """What the files say now: all of it was checked, none of it is in force.

    `material` is None without TLS.
    """

    config: NodeConfig
    rules: Rules
    material: Material | None


def read_fresh(path: Path, authorizer: Authorizer, credentials: Credentials | None) -> Fresh:
    """Read a node.yaml and what it names, and change nothing; on any thread: a proof takes 20 ms.

    Args:
        authorizer, credentials: Those in force; their places may be others by now.

    Raises:
        ReloadRefusedError: Names every file and line that is wrong.
    """
    problems: list[str] = []
    try:
        config = load(path)
    except ConfigError as error:
        raise _refused(path, error.problems) from None
    rules, material = None, None
    try:
        rules = authorizer.read(config.acl.model, config.acl.policy)
    except ConfigError as error:
        problems += error.problems
    if credentials is not None and config.tls is not None:
        try:
            material = credentials.read(paths_of_tls(config))
        except LoghouseError as error:
            problems.append(str(error))
    if config.audit is not None:
        try:
            with open(config.audit, "ab"):
                pass
        except OSError as error:
            problems.append(f"audit: {config.audit}: {error.strerror}; choose a file that can be written")
    if problems:
        raise _refused(path, problems)
    assert rules is not None
    return Fresh(config=config, rules=rules, material=material)


def _refused(path: Path, problems: list[str] | tuple[str, ...]) -> ReloadRefusedError:
    # A problem with a file that node.yaml names begins with that file's path.
    told = [text if text.startswith("/") else f"{path}: {text}" for text in problems]
    return ReloadRefusedError(f"nothing was changed: {'; '.join(told)}")


# --- what is different ---------------------------------------------------------------------


def compare(before: NodeConfig, after: NodeConfig) -> Reloaded:
    """Tell, setting by setting, what is different and can change now, and what waits for a start."""
    old, new = dict(_flat(before)), dict(_flat(after))
    changed, waiting = [], []
    can_tls_change = before.tls is not None and after.tls is not None
    for path in {**old, **new}:
        declared, was = old.get(path, (None, None))
        declared, now = new.get(path, (declared, None))
        if was == now or declared is None:
            continue
        line = f"{path}: {_text(path, was)} -> {_text(path, now)}"
        if declared.is_live and (can_tls_change or not path.startswith("tls.")):
            changed.append(line)
        elif path.startswith("retention."):
            waiting.append(f"{line} (of a new cluster; `loghouse log alter` changes that of a log)")
        else:
            waiting.append(line)
    return Reloaded(changed=tuple(changed), waiting=tuple(waiting))


def in_force(before: NodeConfig, after: NodeConfig) -> NodeConfig:
    """Return the settings that count once those that can change did, and the others did not."""
    changes: dict[str, Any] = {}
    for attribute, declared, _ in settings_of(NodeConfig):
        old, new = getattr(before, attribute), getattr(after, attribute)
        if declared.section is None:
            if declared.is_live:
                changes[attribute] = new
        elif old is not None and new is not None:
            live = {name for name, inner, _ in settings_of(declared.section) if inner.is_live}
            changes[attribute] = replace(old, **{name: getattr(new, name) for name in live})
    return replace(before, **changes)


def _flat(config: NodeConfig) -> Iterator[tuple[str, tuple[Setting, Any]]]:
    for attribute, declared, _ in settings_of(NodeConfig):
        value = getattr(config, attribute)
        if declared.section is None:
            yield declared.key, (declared, value)
        elif value is not None:
            for name, inner, _ in settings_of(declared.section):
                yield f"{declared.key}.{inner.key}", (inner, getattr(value, name))


def _text(path: str, value: Any) -> str:
    """Return a value as node.yaml has it."""
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {quota_text(quota)}' for name, quota in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if path == "retention.age":
        return f"{value}s"
    is_size = isinstance(value, int) and (path.endswith("bytes_max") or not path.endswith("_max"))
    return format_size(value) if is_size else str(value).removesuffix(".0")


def rules_told(before: Rules, after: Rules) -> tuple[str, ...]:
    """Tell whether a policy is another one."""
    if before.rules == after.rules:
        return ()
    return (f"the policy: {before.count} rules -> {after.count} rules",)


def material_told(before: Material, after: Material) -> tuple[str, ...]:
    """Tell whether certificates are other ones."""
    if before == after:
        return ()
    return (f"certificates: {_described(before)} -> {_described(after)}",)


def _described(material: Material) -> str:
    leaf = x509.load_pem_x509_certificates(material.issued.certificate_pem)[0]
    ca_count = material.ca_pem.count(b"-----BEGIN ")
    until = f"{leaf.not_valid_after_utc:%Y-%m-%d}"
    return f"serial {leaf.serial_number:x} until {until}, {ca_count} CAs, {len(material.denied)} denied"
