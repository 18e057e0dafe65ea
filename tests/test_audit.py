"""`make audit`: a pass only where every package was looked up and has no known vulnerability."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from pipeline.errors import RunError

ROOT = Path(__file__).resolve().parent.parent
AUDIT = runpy.run_path(str(ROOT / "scripts" / "audit.py"))
GOOD = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
UNKNOWN = {"name": "uv", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture
def audit(tmp_path):
    """Return a function that audits with a pip-audit that prints and ends as told."""

    def call(out, err="", code=0):
        program = f"import sys; print({out!r}); print({err!r}, file=sys.stderr); sys.exit({code})"
        AUDIT["audit"]([tmp_path / "dev.txt"], [sys.executable, "-c", program])

    return call


def answer(*packages):
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_lock_without_known_vulnerabilities_passes(audit, capsys):
    audit(answer(GOOD, GOOD))
    assert capsys.readouterr().out == "dev.txt: 2 packages looked up\nno known vulnerability\n"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((answer(GOOD, BAD), "", 1), "known vulnerabilities:\n  pillow 1.0: CVE-1, mended in 1.1"),
        # pip-audit ends with 0 here.
        ((answer(GOOD, UNKNOWN),), "knows nothing of 1 of 2 packages (Dependency not found on P"),
        ((answer(),), "knows nothing of 0 of 0 packages"),
        (("", "ERROR: the service\nConnectionError: no route", 1), "audited: ConnectionError: no"),
        (("", "", 1), "pip-audit said nothing"),
        (("[1]",), "is not audited"),
    ],
)
def test_anything_else_is_no_pass(audit, call, message, capsys):
    with pytest.raises(RunError) as error:
        audit(*call)
    assert message in str(error.value)
    assert "no known vulnerability" not in capsys.readouterr().out


def test_every_lock_is_audited():
    locks = {path.name for path in (ROOT / "requirements").glob("*.txt")}
    assert set(AUDIT["LOCKS"]) == locks
