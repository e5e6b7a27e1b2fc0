"""A plain HTTP client, and what a store holds, for tests of the server."""

from __future__ import annotations

import http.client
import json
import urllib.parse

from siamese_search.gallery import open_gallery


class Client:
    def __init__(self, address):
        self.host = urllib.parse.urlsplit(address).netloc

    def ask(self, method, path, body=None, **headers):
        """(status, headers, body); names of headers with _ for -."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method, path, value=None, **headers):
        body = None if value is None else json.dumps(value)
        status, _, answer = self.ask(method, path, body, content_type="application/json", **headers)
        return status, json.loads(answer)


def snapshot(store, name="default"):
    with open_gallery(store, name) as gallery:
        return {one.id: dict(one.payload) for one in gallery.scroll()}


def multipart(path, data=None):
    boundary = "sss-test-boundary"
    head = f'--{boundary}\r\ncontent-disposition: form-data; name="image"; filename="{path.name}"\r\n\r\n'
    content = path.read_bytes() if data is None else data
    return (head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}")
