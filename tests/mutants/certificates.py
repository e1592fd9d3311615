"""Known bugs of who may hold what: certificates, policies, and who speaks as a member.

`tests/test_certificate_mutants.py` tries them.
"""

from tests.mutants.named import bug

TRUST = "loghouse.auth.trust:"
FILES = "loghouse.auth.certificates:"
CREDENTIALS = "loghouse.auth.credentials:"
DENYLIST = "loghouse.auth.denylist:"
POLICY = "loghouse.auth.policy:"
TEXT = "loghouse.text:"
BAD_FILES = "auth.test_policy:BadFileTests."

CERTIFICATES = (
    bug(
        "denied-by-one-spelling",
        "BIP 62: (r, n - s) is a signature, too",
        "A fingerprint denies the signature as it was shown, and not its other form.",
        (DENYLIST + "_spellings", "for order in _CURVE_ORDERS if max(r, s) < order", "for order in ()"),
        by="auth.test_denylist:GuiseTests.test_other_signature",
    ),
    bug(
        "hidden-denial",
        "Unicode TR36: what is seen is not what is read",
        "An entry behind what no editor shows as the end of a line is a part of a comment.",
        (TEXT + "split_lines", "if hidden is not None:", "if False:"),
        by="auth.test_denylist:DenylistTests.test_hidden_lines",
    ),
    bug(
        "old-callers-stay",
        "RFC 5280 6.1: a path ends at a trust anchor",
        "Who was let in before its CA was taken out goes on.",
        (CREDENTIALS + "Credentials.check", "identity.certificate is None", "True"),
        by="auth.test_credentials:ForceTests.test_callers",
    ),
    bug(
        "not-proved",
        "RFC 8446 4.4.2.2: what a stack can use is up to it",
        "New files are in force before a handshake shows that they can be used.",
        (CREDENTIALS + "Credentials.read", "self._prove is not None", "False"),
        by="auth.test_credentials:ForceTests.test_proof_fails",
    ),
    bug(
        "as-it-was-written",
        "RFC 7468 2: text around PEM, which readers may ignore",
        "Each stack reads the file of CAs in its own way.",
        (CREDENTIALS + "read_material", "ca_pem = pem_of(authorities)", "ca_pem = read_pem(paths.ca)"),
        by="auth.test_credentials:ReadingTests.test_written_anew",
    ),
    bug(
        "misspelt-and-left-out",
        "RFC 7468 3: a label that is not known is skipped",
        "A certificate whose first line is misspelt is left out of a file in silence.",
        (FILES + "load_certificates", '_LOOSE_LINE.search(_BLOCK.sub(b"", pem))', "False"),
        by="auth.test_credentials:ReadingTests.test_misspelt_lines",
    ),
    bug(
        "revocations-for-nobody",
        "RFC 5280 5: CRLs",
        "A list of revoked certificates in the file of CAs is taken, and nobody goes by it.",
        (FILES + "load_certificates", "not block[1].endswith(_BLOCKS_BESIDE)", "False"),
        by="auth.test_credentials:ReadingTests.test_misspelt_lines",
    ),
    bug(
        "leaf-as-ca",
        "RFC 5280 4.2.1.9: basic constraints",
        "A certificate that may not sign stands in the file of CAs.",
        (TRUST + "authority_problem", "not constraints.ca or ", "False and "),
        by="auth.test_credentials:ReadingTests.test_no_authorities",
    ),
    bug(
        "ca-for-servers-only",
        "RFC 5280 4.2.1.12: OpenSSL goes by a CA's purposes, BoringSSL does not at an anchor",
        "A CA that may not sign for clients lets clients in, by one of the protocols.",
        (TRUST + "authority_problem", "ExtendedKeyUsageOID.CLIENT_AUTH not in purposes", "False"),
        by="auth.test_credentials:ReadingTests.test_no_authorities",
    ),
    bug(
        "any-action",
        "casbin: a policy is strings",
        "A rule whose action is misspelt is taken, and allows nothing.",
        (POLICY + "_rule_problem", "action not in set(Action)", "False"),
        by=BAD_FILES + "test_bad_policies",
    ),
    bug(
        "blank-in-a-name",
        "Unicode: Default_Ignorable_Code_Point",
        "A letter that shows as nothing is a part of a subject.",
        (TEXT + "hidden_in", " or _BLANK.match(one)", ""),
        by=BAD_FILES + "test_blank_characters",
    ),
)
