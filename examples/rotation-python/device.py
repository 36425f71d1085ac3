#!/usr/bin/env python3
"""A device that changes its own certificate, with a stock MQTT client.

The directory holds root.pem, a.pem and a.key (what the device has), and gets
b.pem and b.key. The file "active" says which pair is in use, "rotation.json" how
far a change is. Every file is complete and synced before the next step, so the
program may be killed anywhere and started again. With birth.pem and birth.key, and the address
of the device door, it registers anew if both pairs are refused.

  device.py DIRECTORY HOST:PORT THING [https://HOST:PORT]
"""
import base64
import json
import os
import queue
import random
import ssl
import sys
import time
import urllib.request
import uuid

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

directory, endpoint, thing = sys.argv[1:4]
door = sys.argv[4] if len(sys.argv) > 4 else ""
host, port = endpoint.rsplit(":", 1)


def path(name):
    return os.path.join(directory, name)


def read(name, otherwise=None):
    try:
        with open(path(name), "rb") as f:
            return f.read()
    except FileNotFoundError:
        return otherwise


def write(name, data):
    """Replaces a file as one step that survives a power cut."""
    fd = os.open(path(name + ".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.rename(path(name + ".new"), path(name))
    d = os.open(directory, os.O_RDONLY)
    os.fsync(d)
    os.close(d)


class Refused(ConnectionError):
    """The service does not want this certificate; another one may do."""


def context(pair):
    out = ssl.create_default_context(cafile=path("root.pem"))
    try:
        out.load_cert_chain(path(pair + ".pem"), path(pair + ".key"))
    except OSError as err:  # it was being made when the power went
        raise Refused(f"the pair {pair} is not complete") from err
    return out


class Connection:
    """One connection as one of the two certificates."""

    open = None  # the newest one

    def __init__(self, pair):
        if Connection.open is not None:  # one that was lost would come back by itself, and end this one
            Connection.open.close()
        Connection.open = None
        self.answers, self.up = queue.Queue(), queue.Queue()
        args = dict(client_id=thing, protocol=mqtt.MQTTv311, clean_session=True)
        if hasattr(mqtt, "CallbackAPIVersion"):  # paho-mqtt 2
            args["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
        self.client = mqtt.Client(**args)
        self.client.tls_set_context(context(pair))
        self.client.on_connect = lambda c, u, f, code: self.up.put(code)
        self.client.on_message = lambda c, u, m: self.answers.put((m.topic, json.loads(m.payload)))
        self.client.connect(host, int(port), keepalive=60)
        self.client.loop_start()
        try:
            code = self.up.get(timeout=15)
        except queue.Empty:
            code = None
        if code != 0:
            self.close()
            raise ConnectionError("no answer") if code is None else Refused(f"the broker refused: {code}")
        Connection.open = self
        own, jobs = f"$hallmark/things/{thing}", f"$aws/things/{thing}/jobs"
        self.client.subscribe([(f"{own}/certificate/renew/+", 1), (f"{jobs}/start-next/+", 1), (f"{jobs}/+/update/+", 1), (f"{jobs}/notify-next", 1)])

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def ask(self, topic, body):
        token = uuid.uuid4().hex
        self.client.publish(topic, json.dumps({**body, "clientToken": token}), qos=1)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                at, answer = self.answers.get(timeout=end - time.monotonic())
            except queue.Empty:
                break
            if answer.get("clientToken") != token:
                continue
            if at == topic + "/accepted":
                return answer
            raise RuntimeError(f"{answer.get('code')}: {answer.get('message')}")
        raise TimeoutError(topic)

    def update(self, job, status, details):
        self.ask(f"$aws/things/{thing}/jobs/{job}/update", {"status": status, "statusDetails": details})


def certificate_id(pair):
    c = x509.load_pem_x509_certificate(read(pair + ".pem"))
    return c.fingerprint(hashes.SHA256()).hex()


def request(pair):
    """Gives a CSR for the pair's key, which is made if there is none."""
    raw = read(pair + ".key")
    if raw is None:
        key = ec.generate_private_key(ec.SECP256R1())
        raw = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write(pair + ".key", raw)
    key = serialization.load_pem_private_key(raw, None)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, thing[:64])])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def rotate(connection, job, document):
    """Does one job, from where the last life left it; gives the connection to go on with.

    The journal says how far it is: "issue", "trial", then "connected" or "fallback".
    """
    active = read("active", b"a").decode()
    journal = json.loads(read("rotation.json", b"{}"))

    def step(name):
        journal["step"] = name
        write("rotation.json", json.dumps(journal).encode())

    if journal.get("job") != job:
        journal = {"job": job, "from": active, "to": "b" if active == "a" else "a"}
        for name in (journal["to"] + ".pem", journal["to"] + ".key"):
            if os.path.exists(path(name)):
                os.remove(path(name))
        step("issue")
    old, new = journal["from"], journal["to"]
    if journal["step"] == "issue":
        answer = connection.ask(f"$hallmark/things/{thing}/certificate/renew", {"csr": request(new)})
        write(new + ".pem", (answer["certificatePem"] + answer["chainPem"]).encode())
        connection.update(job, "IN_PROGRESS", {"step": "issued", "certificateId": certificate_id(new)})
        step("trial")
    if journal["step"] == "trial":
        connection.close()
        for attempt in range(document.get("connect", {}).get("attempts", 5)):
            try:
                connection = Connection(new)
            except OSError as err:
                journal["code"] = type(err).__name__
                time.sleep(min(2**attempt, 60))
            else:
                write("active", new.encode())  # proven: from now on it is the one
                step("connected")
                break
        else:
            step("fallback")
            connection = Connection(old)
    if journal["step"] == "connected":
        connection.update(job, "SUCCEEDED", {"step": "connected", "certificateId": certificate_id(new)})
    else:
        connection.update(job, "FAILED", {"step": "fallback", "code": journal.get("code", ""), "certificateId": certificate_id(old)})
    print(f"{job}: {journal['step']}, uses {read('active', b'a').decode()}", flush=True)
    return connection


def register(pair):
    """Gets a pair anew, as the device that the factory made."""
    for name in (pair + ".pem", pair + ".key"):
        if os.path.exists(path(name)):
            os.remove(path(name))
    body = json.dumps({"csr": base64.b64encode(request(pair).encode()).decode()}).encode()
    ask = urllib.request.Request(door + "/bootstrap/v1/register", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(ask, context=context("birth"), timeout=30) as r:
        answer = json.load(r)
    certificates = [x509.load_der_x509_certificate(base64.b64decode(c)) for c in [answer["certificate"], *answer["chain"]]]
    write(pair + ".pem", b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates))


def anyhow():
    """Connects with the pair in use, else with the other one, else registers anew."""
    refusals = 0
    while True:
        active = read("active", b"a").decode()
        refused = True
        for pair in (active, "b" if active == "a" else "a"):
            try:
                connection = Connection(pair)
            except Refused:
                continue
            except OSError:  # nobody said anything about the certificate
                refused = False
                continue
            if pair != active:
                write("active", pair.encode())
            return connection
        refusals = refusals + 1 if refused else 0
        if refusals == 2 and door and read("birth.pem") is not None:
            register("b" if active == "a" else "a")
        time.sleep(min(2**refusals, 60))


def live(connection):
    """Does what it is asked for, until the connection is lost."""
    while True:
        execution = connection.ask(f"$aws/things/{thing}/jobs/start-next", {}).get("execution") or {}
        job, document = execution.get("jobId"), execution.get("jobDocument", {})
        if not job:
            time.sleep(2)
        elif document.get("operation") != "rotate-certificate" or document.get("undo"):
            connection.update(job, "REJECTED", {"reason": "not known to this device"})
        else:
            connection = rotate(connection, job, document)


while True:
    try:
        live(anyhow())
    except (OSError, RuntimeError) as err:
        print(f"{err}; connecting again", file=sys.stderr, flush=True)
        time.sleep(5 * random.random())  # not the whole fleet at one moment
