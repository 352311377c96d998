"""An OpenID provider on loopback, in a thread: discovery, authorization, token, keys, userinfo; signed by joserfc. A test bends what it says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "atom", "s3cret+with/odd%characters"


@cache
def key_pair(number: int) -> RSAKey:
    """One of a few of the process, each made once: to make one takes longer than a whole sign-in."""
    return RSAKey.generate_key(2048, auto_kid=True)


class Issuer:
    """claims: what it says of who signs in. bend: changes the ID token's claims. raw: path -> answers in the place of its own."""

    def __init__(self, port: int = 0) -> None:
        self.keys = 1
        self.key = key_pair(self.keys)
        self.claims: dict[str, Any] = {"sub": "bob-1", "email": "Bob@Acme.test", "email_verified": True}
        self.in_token = True  # the address; else only userinfo tells
        self.userinfo: dict[str, Any] = {}  # over the claims
        self.bend: Callable[[dict[str, Any]], None] = lambda claims: None
        self.header: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any], dict[str, Any]], str] = self.signed
        self.metadata: dict[str, Any] = {}
        self.raw: dict[str, Callable[[Any], None]] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.answer(self, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                issuer.answer(self, {name: values[0] for name, values in parse_qs(body).items()})

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: Any) -> None:
                pass  # who asked hung up, as it should

        self.server = Server(("127.0.0.1", port), Handler)
        self.root = f"http://127.0.0.1:{self.server.server_port}/realm"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def rotate(self) -> None:
        self.keys += 1
        self.key = key_pair(self.keys)

    def signed(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        return jwt.encode(header, claims, self.key)

    def answer(self, request: Any, form: dict[str, str]) -> None:
        parts = urlsplit(request.path)
        path = parts.path.removeprefix("/realm")
        self.asked.append(path)
        if path in self.raw:
            self.raw[path](request)
        elif path == "/.well-known/openid-configuration":
            addresses = {
                f"{name}_endpoint": f"{self.root}/{name}" for name in ("authorization", "token", "userinfo")
            } | {"jwks_uri": f"{self.root}/keys"}
            self.say(request, {"issuer": self.root, **addresses, **self.metadata})
        elif path == "/keys":
            self.say(request, {"keys": [self.key.as_dict(private=False)]})
        elif path == "/authorization":
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            assert asked["client_id"] == CLIENT
            assert asked["response_type"] == "code"
            assert asked["code_challenge_method"] == "S256"
            code = f"code{len(self.codes)}"
            self.codes[code] = asked
            request.send_response(302)
            request.send_header(
                "Location", f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"
            )
            request.end_headers()
        elif path == "/token":
            self.token(request, form)
        elif path == "/userinfo":
            assert request.headers["Authorization"] == "Bearer for-userinfo"
            self.say(request, {**self.claims, **self.userinfo})
        else:
            self.say(request, {}, 404)

    def token(self, request: Any, form: dict[str, str]) -> None:
        asked = self.codes.pop(form.get("code", ""), None)
        if (
            asked is None
            or form["grant_type"] != "authorization_code"
            or form["redirect_uri"] != asked["redirect_uri"]
            or create_s256_code_challenge(form["code_verifier"]) != asked["code_challenge"]
        ):
            self.say(request, {"error": "invalid_grant"}, 400)
            return
        if "Authorization" not in request.headers and (form["client_id"], form["client_secret"]) != (CLIENT, SECRET):
            self.say(request, {"error": "invalid_client"}, 401)
            return
        now = int(time.time())
        claims = {"iss": self.root, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims |= self.claims if self.in_token else {"sub": self.claims["sub"]}
        self.bend(claims)
        header = {"alg": "RS256", "kid": self.key.kid, **self.header}
        told = {"access_token": "for-userinfo", "token_type": "Bearer", "id_token": self.sign(header, claims)}
        self.say(request, told)

    @staticmethod
    def say(request: Any, said: Any, status: int = 200, **headers: str) -> None:
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)
