"""Certificates for one test, made with the openssl command."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """The files of a self-signed certificate and its key."""

    certificate: Path
    key: Path

    @property
    def files(self):
        """What `serve(ssl=...)` takes."""
        return self.certificate, self.key

    def trusted(self):
        """Return a client's context that trusts this certificate only."""
        return ssl.create_default_context(cafile=str(self.certificate))


def self_signed(folder, *, names="DNS:localhost,IP:127.0.0.1,IP:::1", name="server"):
    """Make a certificate for names, which are as in the subject's alternative names."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates of this test, is not installed: apt-get install openssl")
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName={names}", "-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return made
