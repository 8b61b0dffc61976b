"""A Hub on this machine: the endpoints that huggingface_hub uses to publish and to fetch, over HTTP, in memory.

    with LoopbackHub() as hub:
        HfApi(endpoint=hub.url, token=hub.token)

`hub.repos` holds what was committed, `hub.requests` what was asked, `hub.stored` the large files, and
`hub.sent` the bytes of each upload. `hub.break_upload_of = 2` cuts the connection in the middle of the second large
file, once the client has sent half of it; every later attempt fails too, until it is set back to `None`.
"""

import base64
import hashlib
import json
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".png")  # what the Hub keeps as large files


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    private: bool
    branches: dict = field(default_factory=dict)  # name -> list of commits, each (oid, message, {path: content})

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(commit, files) of a branch or a commit."""
        if revision in self.branches:
            oid, _, files = self.branches[revision][-1]
            return oid, files
        for commits in self.branches.values():
            for oid, _, files in commits:
                if oid == revision:
                    return oid, files
        return None

    def commit(self, branch: str, message: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(secrets.token_bytes(20)).hexdigest()
        self.branches.setdefault(branch, []).append((oid, message, files))
        return oid


class LoopbackHub:
    def __init__(self):
        self.token = "hf_" + secrets.token_hex(20)
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}
        self.sent: list[int] = []
        self.requests: list[tuple[str, str]] = []
        self.break_upload_of: int | None = None
        self.lock = threading.Lock()

    def __enter__(self) -> "LoopbackHub":
        handler = type("Bound", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home) -> dict[str, str]:
        """For a process whose Hub this is."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_):
        pass

    # --- what the client asks

    def do_GET(self):
        self.route("GET")

    def do_HEAD(self):
        self.route("HEAD")

    def do_POST(self):
        self.route("POST")

    def do_PUT(self):
        self.route("PUT")

    def route(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((method, path))
        parts = path.strip("/").split("/")
        if parts[0] == "storage":
            return self.store(parts[1]) if method == "PUT" else self.verify()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/whoami-v2":
            return self.whoami()
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if parts[0] == "api" and len(parts) >= 4:
            return self.api("/".join(parts[2:4]), parts[4:], body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch("/".join(parts[:2]).removesuffix(".git"), json.loads(body))
        if len(parts) > 4 and parts[2] == "resolve":
            return self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), method)
        return self.refuse(404, "EntryNotFound", "no such page")

    def api(self, name: str, rest: list[str], body: bytes) -> None:
        """/api/models/OWNER/NAME/..."""
        repo = self.visible(name)
        if repo is None:
            return
        action, argument = (rest[0] if rest else ""), "/".join(rest[1:]) or "main"
        if action in ("", "revision"):
            return self.info(name, repo, argument)
        if action == "tree":
            return self.tree(repo, argument)
        if action == "refs":
            branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": repo.files(b)[0]} for b in repo.branches]
            return self.answer({"branches": branches, "tags": [], "converts": []})
        if not self.is_owner():
            return self.refuse(401, None, "Invalid username or password.")
        if action == "branch":
            return self.branch(repo, argument)
        if action == "preupload":
            return self.preupload(repo, argument, json.loads(body))
        if action == "commit":
            return self.commit(name, repo, argument, body)
        return self.refuse(404, "EntryNotFound", f"no {action}")

    # --- who may

    def is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def visible(self, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.is_owner()):
            self.refuse(404 if self.is_owner() else 401, "RepoNotFound", "Repository not found")
            return None
        return repo

    # --- publishing

    def whoami(self) -> None:
        if not self.is_owner():
            return self.refuse(401, None, "Invalid user token.")
        role = {"accessToken": {"displayName": "test", "role": "write"}}
        self.answer({"type": "user", "name": "owner", "auth": role, "orgs": []})

    def create(self, asked: dict) -> None:
        if not self.is_owner():
            return self.refuse(401, None, "Invalid username or password.")
        owner = asked.get("organization") or "owner"
        if owner != "owner":
            return self.refuse(403, None, f"You don't have the rights to create a model under {owner}")
        name = f"{owner}/{asked['name']}"
        if name in self.hub.repos:
            there = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}", "name": name}
            return self.send(409, json.dumps(there).encode(), "application/json", {})
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repos[name] = Repo(private)
        self.hub.repos[name].commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def branch(self, repo: Repo, name: str) -> None:
        if name in repo.branches:
            return self.refuse(409, None, "Reference already exists")
        repo.branches[name] = list(repo.branches["main"])
        self.answer({})

    def preupload(self, repo: Repo, revision: str, asked: dict) -> None:
        found = repo.files(revision)
        there = found[1] if found else {}
        files = []
        for file in asked["files"]:
            path, large = file["path"], file["path"].endswith(LARGE)
            oid = None
            if path in there:
                oid = hashlib.sha256(there[path]).hexdigest() if large else git_oid(there[path])
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": files})

    def batch(self, name: str, asked: dict) -> None:
        if not self.is_owner() or name not in self.hub.repos:
            return self.refuse(401, None, "Invalid username or password.")
        objects = []
        for wanted in asked["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.stored:
                place = f"{self.hub.url}/storage/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": place}, "verify": {"href": place}}
            objects.append(answer)
        self.answer({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def store(self, oid: str) -> None:
        """A large file; where it is to fail, the connection is cut after half of it."""
        length = int(self.headers["Content-Length"])
        with self.hub.lock:
            number = len(self.hub.stored) + 1
            breaks = self.hub.break_upload_of is not None and number >= self.hub.break_upload_of
            if breaks:
                self.rfile.read(length // 2)
                self.connection.close()
                self.close_connection = True
                return
            content = self.rfile.read(length)
            self.hub.sent.append(len(content))
            assert hashlib.sha256(content).hexdigest() == oid
            self.hub.stored[oid] = content
        self.answer({})

    def verify(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if len(self.hub.stored.get(asked["oid"], b"")) != asked["size"]:
            return self.refuse(422, None, "size differs")
        self.answer({})

    def commit(self, name: str, repo: Repo, revision: str, body: bytes) -> None:
        found = repo.files(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files, message = dict(found[1]), ""
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    return self.refuse(422, None, f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = repo.commit(revision, message, files)
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    # --- fetching

    def info(self, name: str, repo: Repo, revision: str) -> None:
        found = repo.files(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        oid, files = found
        siblings = [{"rfilename": path} for path in sorted(files)]
        about = {"_id": "0", "id": name, "modelId": name, "sha": oid, "private": repo.private, "siblings": siblings}
        self.answer(
            about | {"author": "owner", "tags": [], "disabled": False, "gated": False, "downloads": 0, "likes": 0}
        )

    def tree(self, repo: Repo, argument: str) -> None:
        found = repo.files(argument) or repo.files(argument.split("/")[0])
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {argument}")
        folder = "" if repo.files(argument) else argument.partition("/")[2]
        if folder:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist")
        entries = []
        for path, content in sorted(found[1].items()):
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if path.endswith(LARGE):
                sha = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self.answer(entries)

    def resolve(self, name: str, revision: str, path: str, method: str) -> None:
        repo = self.visible(name)
        if repo is None:
            return
        found = repo.files(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        oid, files = found
        if path not in files:
            return self.refuse(404, "EntryNotFound", f"{path} does not exist", {"X-Repo-Commit": oid})
        content = files[path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{git_oid(content)}"'}
        if path.endswith(LARGE):
            headers |= {"X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        self.send(200, content, "application/octet-stream", headers, with_body=method == "GET")

    # --- answers

    def answer(self, content, kind: str = "application/json") -> None:
        self.send(200, json.dumps(content).encode(), kind, {})

    def refuse(self, status: int, code: str | None, message: str, headers: dict | None = None) -> None:
        given = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})
        body = json.dumps({"error": message}).encode()
        self.send(status, body, "application/json", given, with_body=self.command != "HEAD")

    def send(self, status: int, body: bytes, kind: str, headers: dict, with_body: bool = True) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)
