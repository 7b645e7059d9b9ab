"""A push service that checks what it is sent as a real one and a browser would.

    push_receiver.py --out FILE --subscriptions K [--port PORT] [--origin URL]

The first line on standard output is the port; the next is one JSON array of K PushSubscriptions
as a browser hands them out: {endpoint, keys: {p256dh, auth}}. Their endpoints begin with URL, where
a proxy stands before this server.

Each POST to an endpoint is checked, and answered 400 with the reason when a check fails:
the VAPID token (RFC 8292: ES256 by the key in `k`, `aud` this origin, `exp` within 24 hours, `sub`
present), `Content-Encoding: aes128gcm`, `TTL`, and that the body decrypts with the subscription's
keys (RFC 8291). Then it adds one JSON line to FILE: subscription (its number), eventId, payload,
ttl, urgency, topic, at (seconds since 1970); and answers 201.

Standard input takes commands, one a line, each answered by one line `done refused=COUNT`:

    gone I               subscription I answers 410 from now on
    fail-next N STATUS   the next N messages get this status, with `Retry-After: 1`
    ok                   accept again
    count                only the answer

One process takes about 2,500 messages a second on one core (asyncio, keep-alive HTTP/1.1);
decrypting is most of it.
"""

import argparse
import asyncio
import base64
import json
import os
import sys
import time

import http_ece
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DAY = 24 * 60 * 60
REASONS = {201: "Created", 400: "Bad Request", 404: "Not Found", 410: "Gone"}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Refused(Exception):
    """What is wrong with a message."""


class Subscription:
    def __init__(self, number):
        self.number = number
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.auth = os.urandom(16)
        self.gone = False

    def to_json(self, origin):
        public = self.private.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )
        return {
            "endpoint": f"{origin}/push/{self.number}",
            "expirationTime": None,
            "keys": {"p256dh": b64(public), "auth": b64(self.auth)},
        }


class Service:
    """The subscriptions, the checks, and the state that commands change."""

    def __init__(self, out, count):
        self.out = out
        self.subscriptions = [Subscription(n) for n in range(count)]
        self.origin = None
        self.tokens = {}  # Authorization → exp, of those whose signature was good
        self.fail = (0, 0)  # how many more, with which status
        self.refused = 0

    def check_vapid(self, authorization):
        scheme, _, rest = (authorization or "").partition(" ")
        if scheme.lower() != "vapid":
            raise Refused(f"Authorization is not vapid: {authorization!r}")
        exp = self.tokens.get(rest)
        if exp is None:
            exp = self.tokens[rest] = self.verify(rest)
        if not time.time() < exp <= time.time() + DAY:
            raise Refused(f"exp {exp} is not within the next 24 hours")

    def verify(self, parameters):
        try:
            fields = dict(p.strip().split("=", 1) for p in parameters.split(","))
            token, key = fields["t"], unb64(fields["k"])
            signed, _, signature = token.rpartition(".")
            head, claims = (json.loads(unb64(part)) for part in signed.split("."))
            raw = unb64(signature)
            if head["alg"] != "ES256" or len(raw) != 64:
                raise Refused("the token is not ES256")
            r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key).verify(
                encode_dss_signature(r, s), signed.encode(), ec.ECDSA(hashes.SHA256())
            )
            if claims["aud"] != self.origin:
                raise Refused(f"aud is {claims['aud']!r}, not {self.origin!r}")
            if not claims["sub"].startswith(("mailto:", "https:")):
                raise Refused(f"sub is {claims['sub']!r}")
            return float(claims["exp"])
        except InvalidSignature as e:
            raise Refused("the token's signature does not fit the key k") from e
        except (KeyError, ValueError, TypeError) as e:
            raise Refused(f"malformed vapid parameters: {e!r}") from e

    def accept(self, number, headers, body):
        subscription = self.subscriptions[number]
        self.check_vapid(headers.get("authorization"))
        if headers.get("content-encoding") != "aes128gcm":
            raise Refused("Content-Encoding is not aes128gcm")
        if not headers.get("ttl", "").isdigit():
            raise Refused("TTL is missing or not a number of seconds")
        if len(body) > 4096:
            raise Refused("the body is larger than 4096 bytes")
        try:
            text = http_ece.decrypt(
                body, private_key=subscription.private, auth_secret=subscription.auth
            )
            payload = json.loads(text)
        except (http_ece.ECEException, ValueError) as e:
            raise Refused(f"the body does not decrypt to JSON: {e!r}") from e
        line = {
            "subscription": number,
            "eventId": find(payload, "eventId"),
            "payload": payload,
            "ttl": int(headers["ttl"]),
            "urgency": headers.get("urgency"),
            "topic": headers.get("topic"),
            "at": time.time(),
        }
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()

    def answer(self, method, path, headers, body):
        """The status and, for a refusal, why."""
        folder, _, number = path.rpartition("/")
        if method != "POST" or folder != "/push" or not number.isdigit():
            return 404, "no such endpoint"
        number = int(number)
        if number >= len(self.subscriptions):
            return 404, "no such subscription"
        left, status = self.fail
        if left:
            self.fail = (left - 1, status)
            return status, "as the test asked"
        if self.subscriptions[number].gone:
            return 410, "unsubscribed"
        try:
            self.accept(number, headers, body)
        except Refused as e:
            print(f"push_receiver.py: {e}", file=sys.stderr, flush=True)
            return 400, str(e)
        return 201, ""

    def command(self, line):
        words = line.split()
        if words[:1] == ["gone"]:
            self.subscriptions[int(words[1])].gone = True
        elif words[:1] == ["fail-next"]:
            self.fail = (int(words[1]), int(words[2]))
        elif words == ["ok"]:
            self.fail = (0, 0)
        elif words != ["count"]:
            raise SystemExit(f"push_receiver.py: unknown command {line!r}")
        print(f"done refused={self.refused}", flush=True)


def find(value, key):
    """The first value of `key`, however deep in objects."""
    if not isinstance(value, dict):
        return None
    if key in value:
        return value[key]
    return next((f for v in value.values() if (f := find(v, key)) is not None), None)


async def connection(service, reader, writer):
    """HTTP/1.1 with Content-Length and keep-alive, which is all a push needs."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ", 2)
            pairs = (line.split(":", 1) for line in head[1:] if line)
            headers = {name.strip().lower(): value.strip() for name, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            status, why = service.answer(method, path, headers, body)
            if status != 201:
                service.refused += 1
            retry = "Retry-After: 1\r\n" if status in (429, 503) else ""
            location = f"Location: {service.origin}/message\r\n" if status == 201 else ""
            text = why.encode()
            writer.write(
                f"HTTP/1.1 {status} {REASONS.get(status, 'Refused')}\r\n{retry}{location}"
                f"Content-Length: {len(text)}\r\n\r\n".encode() + text
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--out", required=True)
    parser.add_argument("--subscriptions", type=int, required=True)
    parser.add_argument("--origin", metavar="URL", help="where clients reach this server")
    args = parser.parse_args()

    with open(args.out, "a", encoding="utf-8") as out:
        service = Service(out, args.subscriptions)
        server = await asyncio.start_server(
            lambda r, w: connection(service, r, w), "127.0.0.1", args.port
        )
        port = server.sockets[0].getsockname()[1]
        service.origin = args.origin or f"http://127.0.0.1:{port}"
        print(port, flush=True)
        print(
            json.dumps([s.to_json(service.origin) for s in service.subscriptions]),
            flush=True,
        )

        # The end of standard input is the end of the test that started this.
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        while line := await commands.readline():
            service.command(line.decode())
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
