"""A client of the event stream, made of a library that somebody else wrote.

    sse_client.py LIBRARY URL

LIBRARY is `sseclient-py` (over requests) or `httpx-sse` (over httpx). For each event it writes one
JSON line {id, data, eventId}, the last of which it reads from the data; it ends at the event of type
`story.end`. Neither library connects again, so this does, as their documentation says, with the
last id.
"""

import json
import sys
import time

import httpx
import httpx_sse
import requests
import sseclient

# A stream is silent as long as nothing happens.
TIMEOUTS = httpx.Timeout(10, read=None)


def by_sseclient(url, headers):
    session = requests.Session()
    session.trust_env = False  # No proxy.
    with session.get(url, headers=headers, stream=True, timeout=(10, None)) as response:
        response.raise_for_status()
        yield from sseclient.SSEClient(response).events()


def by_httpx(url, headers):
    with (
        httpx.Client(timeout=TIMEOUTS, trust_env=False) as client,
        httpx_sse.connect_sse(client, "GET", url, headers=headers) as source,
    ):
        source.response.raise_for_status()
        for event in source.iter_sse():
            # It also makes events of blocks that have no data, which a browser would not:
            # those with `retry` or `id` alone.
            if event.data:
                yield event


LIBRARIES = {"sseclient-py": by_sseclient, "httpx-sse": by_httpx}


def main():
    library, url = sys.argv[1:]
    last = None
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            for event in LIBRARIES[library](url, headers):
                if event.event != "message":
                    sys.exit(f"an event named {event.event}: {event.data}")
                said = json.loads(event.data)
                if said["type"] == "story.end":
                    return
                line = {"id": event.id, "data": event.data, "eventId": said["eventId"]}
                print(json.dumps(line), flush=True)
                last = event.id
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            pass
        except httpx.TransportError:
            pass
        time.sleep(0.2)


if __name__ == "__main__":
    main()
