"""An SMTP server that writes down what it accepts.

    smtp_server.py --out FILE [--port PORT] [--fail "451 4.3.0 try later" [--times N]]

The first line on standard output is the port. Each accepted message adds one JSON line per
recipient to FILE: rcpt, sender, messageId, eventId (X-Herald-Event-Id), subject, body (of the first
text/plain part), html and at (seconds since 1970).

Standard input takes commands, one a line, each answered by one line `done refused=COUNT`, where
COUNT is how many recipients have been refused so far:

    fail CODE TEXT             refuse every recipient from now on, at RCPT TO
    fail-next N CODE TEXT      refuse the next N recipients
    fail-at N END CODE TEXT    refuse the next N recipients whose address ends in END
    delay MS                   answer messages so late; they are written down before that
    ok                         accept again, at once
    count                      only the answer
"""

import argparse
import asyncio
import email
import email.header
import json
import sys
import time

from aiosmtpd.smtp import SMTP


class Recorder:
    """The hooks that aiosmtpd calls, and the state that commands change."""

    def __init__(self, out, answer, times):
        self.out = out
        self.answer = answer
        self.left = times  # refusals left; None is without end
        self.at = {}  # end of an address → [refusals left, answer]
        self.delay = 0
        self.refused = 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.answer is not None and self.left != 0:
            if self.left is not None:
                self.left -= 1
            self.refused += 1
            return self.answer
        for end, refusal in self.at.items():
            if address.endswith(end) and refusal[0]:
                refusal[0] -= 1
                self.refused += 1
                return refusal[1]
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content)
        plain, html = texts(message)
        for rcpt in envelope.rcpt_tos:
            line = {
                "rcpt": rcpt,
                "sender": envelope.mail_from,
                "messageId": message["Message-ID"],
                "eventId": message["X-Herald-Event-Id"],
                "subject": header(message["Subject"]),
                "body": plain,
                "html": html,
                "at": time.time(),
            }
            self.out.write(json.dumps(line) + "\n")
        # Before the 250: what the sender believes delivered is written down.
        self.out.flush()
        await asyncio.sleep(self.delay)
        return "250 2.0.0 accepted"

    def command(self, line):
        verb, _, rest = line.strip().partition(" ")
        if verb == "fail":
            self.answer, self.left = rest, None
        elif verb == "fail-next":
            times, _, answer = rest.partition(" ")
            self.answer, self.left = answer, int(times)
        elif verb == "fail-at":
            times, end, answer = rest.split(" ", 2)
            self.at[end] = [int(times), answer]
        elif verb == "delay":
            self.delay = int(rest) / 1000
        elif verb == "ok":
            self.answer, self.at, self.delay = None, {}, 0
        elif verb != "count":
            raise SystemExit(f"smtp_server.py: unknown command {line!r}")
        print(f"done refused={self.refused}", flush=True)


def header(value):
    """A header's text, RFC 2047 words decoded."""
    if value is None:
        return None
    return str(email.header.make_header(email.header.decode_header(value)))


def texts(message):
    """The first plain and the first HTML part."""
    found = {"text/plain": None, "text/html": None}
    for part in message.walk():
        kind = part.get_content_type()
        if kind in found and found[kind] is None:
            charset = part.get_content_charset("utf-8")
            found[kind] = part.get_payload(decode=True).decode(charset, "replace")
    return found["text/plain"], found["text/html"]


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--out", required=True)
    parser.add_argument("--fail", metavar="ANSWER", help="refuse recipients with this")
    parser.add_argument("--times", type=int, help="how many; without it, all")
    args = parser.parse_args()

    with open(args.out, "a", encoding="utf-8") as out:
        recorder = Recorder(out, args.fail, args.times)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(recorder, hostname="peer.test", enable_SMTPUTF8=True, loop=loop),
            "127.0.0.1",
            args.port,
        )
        print(server.sockets[0].getsockname()[1], flush=True)

        # The end of standard input is the end of the test that started this.
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        while line := await commands.readline():
            recorder.command(line.decode())
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
