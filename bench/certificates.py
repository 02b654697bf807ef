"""A certificate for 127.0.0.1 that is its own CA, for TLS on this machine."""

import machine
from machine import RUN

FOLDER = RUN / "certificates"
CERTIFICATE = FOLDER / "server.pem"
KEY = FOLDER / "server.key"
# What HAProxy reads: the certificate and its key in one file.
BOTH = FOLDER / "both.pem"


def make():
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", KEY]
    machine.run(
        ["openssl", "req", "-x509", *key, "-out", CERTIFICATE, "-days", "30", "-subj", "/CN=localhost", *names], 30
    )
    BOTH.write_text(CERTIFICATE.read_text() + KEY.read_text())
