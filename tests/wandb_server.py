"""W&B server on the loopback interface, with the part of the API that uploading runs and saving a report needs.

It keeps what clients send: `runs` (by id), `history` (lines by run id), `artifacts` (by name), `files` (path -> bytes),
`reports`. While `rejects_keys` is set it answers 401 to everything; while `is_silent` is set it answers GET only.
"""

import gzip
import json
import os
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY = "reader"


def environment(url: str) -> dict[str, str]:
    """Return this process's variables, with the address and key of a server in place of any others of W&B."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return known | {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}


class Server(ThreadingHTTPServer):
    """A server on a free port, running from its construction until `close`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.reports: list[dict[str, Any]] = []
        self.operations: list[str] = []
        self.projects: set[str] = set()
        self.rejects_keys = False
        self.is_silent = False
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect early."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the `data` of one GraphQL operation."""
        with self.lock:
            self.operations.append(name)
            return ANSWERS[name](self, variables) if name in ANSWERS else {}

    def project(self, name: str) -> dict[str, Any]:
        return {
            "id": f"project-{name}",
            "internalId": "1",
            "name": name,
            "entityName": ENTITY,
            "isBenchmark": False,
            "createdAt": "2026-01-01T00:00:00Z",
            "entity": {"id": "entity", "name": ENTITY},
            "user": None,
            "__typename": "Project",
        }


def viewer(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    user = {
        "id": "user",
        "entity": ENTITY,
        "username": ENTITY,
        "name": ENTITY,
        "email": "",
        "admin": False,
        "flags": "{}",
        "teams": {"edges": []},
        "apiKeys": {"edges": []},
        "defaultEntity": {"name": ENTITY},
        "deletedAt": None,
    }
    return {"viewer": user}


def upsert_run(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    name = variables["name"]
    known = name in server.runs
    told = {key: value for key, value in variables.items() if value is not None}
    server.runs.setdefault(name, {}).update(told)
    server.projects.add(variables["project"])
    bucket = {
        "id": f"run-{name}",
        "name": name,
        "displayName": server.runs[name].get("displayName"),
        "description": None,
        "config": "{}",
        "sweepName": None,
        "historyLineCount": len(server.history.get(name, [])),
        "project": server.project(variables["project"]),
    }
    return {"upsertBucket": {"bucket": bucket, "inserted": not known}}


def resume_status(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    name, bucket = variables["name"], None
    if name in server.runs:
        lines = server.history.get(name, [])
        bucket = {
            "id": f"run-{name}",
            "name": name,
            "summaryMetrics": json.dumps(server.summaries.get(name, {})),
            "displayName": server.runs[name].get("displayName"),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyLineCount": len(lines),
            "historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]),
            "eventsTail": "[]",
            "config": server.runs[name].get("config", "{}"),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
    model = {"id": "project", "name": variables["project"], "entity": {"id": "entity", "name": ENTITY}}
    return {"model": {**model, "bucket": bucket}}


def create_artifact(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    told = variables["input"]
    name = told["artifactCollectionName"]
    server.artifacts[name] = {"type": told["artifactTypeName"], "committed": False, "digest": told["digest"]}
    artifact = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
    return {"createArtifact": {"artifact": artifact}}


def create_manifest(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    place = f"manifests/{variables['artifactID']}"
    file = {"id": "file", "name": "wandb_manifest.json", "displayName": "", "uploadUrl": f"{server.url}/upload/{place}"}
    return {"createArtifactManifest": {"artifactManifest": {"id": place, "file": {**file, "uploadHeaders": []}}}}


def create_artifact_files(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    edges = []
    for each in variables["input"]["artifactFiles"]:
        place = f"artifacts/{each['artifactID']}/{each['name']}"
        node = {"id": place, "name": each["name"], "displayName": each["name"], "uploadHeaders": []}
        node |= {"uploadUrl": f"{server.url}/upload/{place}", "storagePath": place, "uploadMultipartUrls": None}
        edges.append({"node": {**node, "artifact": {"id": each["artifactID"]}}})
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def commit_artifact(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    server.artifacts[variables["artifactID"]]["committed"] = True
    return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}


def create_run_files(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    place = f"{server.url}/upload/runs/{variables['run']}"
    files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in variables["files"]]
    return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}


def list_projects(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    edges = [{"node": server.project(name), "cursor": name} for name in sorted(server.projects)]
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {"models": {"edges": edges, "pageInfo": page}}


def create_project(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    name = variables["input"]["name"]
    server.projects.add(name)
    project = {**server.project(name), "description": None, "access": None, "views": None}
    return {"result": {"model": project, "project": project, "inserted": True}}


def upsert_view(server: Server, variables: dict[str, Any]) -> dict[str, Any]:
    server.reports.append(variables)
    view = {
        "id": "VmlldzoxMjM0",
        "type": variables["type"],
        "name": variables["name"],
        "spec": variables["spec"],
        "displayName": variables["displayName"],
        "description": variables["description"],
        "project": server.project(variables["projectName"]),
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    return {"upsertView": {"view": view, "inserted": True}}


ANSWERS: dict[str, Callable[[Server, dict[str, Any]], dict[str, Any]]] = {
    "Viewer": viewer,
    "GetDefaultEntity": viewer,
    "GetProjects": list_projects,
    "RunResumeStatus": resume_status,
    "UpsertBucket": upsert_run,
    "CreateArtifact": create_artifact,
    "CreateArtifactManifest": create_manifest,
    "CreateArtifactFiles": create_artifact_files,
    "CommitArtifact": commit_artifact,
    "CreateRunFiles": create_run_files,
    "ServerFeaturesQuery": lambda server, variables: {"serverInfo": {"features": []}},
    "CreateProject": create_project,
    "upsertView": upsert_view,
    "ArtifactType": lambda server, variables: {"project": {"artifact": None}},
    "ProjectInternalId": lambda server, variables: {"project": server.project(variables["projectName"])},
}


class Handler(BaseHTTPRequestHandler):
    """HTTP handler of `Server`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *words: Any) -> None:
        """Print nothing."""

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(parts)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def reply(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        self.server.files[self.path.removeprefix("/upload/")] = self.body()
        self.reply({})

    def do_POST(self) -> None:
        data = self.body()
        while self.server.is_silent:
            time.sleep(0.1)
        if self.server.rejects_keys:
            return self.reply({"errors": [{"message": "user is not logged in"}]}, 401)
        if self.path == "/graphql":
            asked = json.loads(data)
            name = asked.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", asked["query"]).group(1)
            return self.reply({"data": self.server.answer(name, asked.get("variables") or {})})
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if stream:
            self._stream(stream.group(1), json.loads(data))
        self.reply({})

    def _stream(self, run: str, sent: dict[str, Any]) -> None:
        files = sent.get("files") or {}
        history = files.get("wandb-history.jsonl")
        with self.server.lock:
            if history:
                lines = self.server.history.setdefault(run, [])
                lines[history["offset"] :] = [json.loads(line) for line in history["content"]]
            for line in files.get("wandb-summary.json", {}).get("content", []):
                self.server.summaries[run] = json.loads(line)
