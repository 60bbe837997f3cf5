"""A stand-in for CryoSPARC's HTTP interface: it answers cryosparc-tools as documented, and records the calls.

The interface is made of the client's own description (`cryosparc/api.pyi`): names, parameters and types of answers.
What an instance would refuse by that documentation is refused here. Where nothing is documented (addresses, what a
failed job may do), the choice is ours; only a live instance could tell.
"""

from __future__ import annotations

import ast
import datetime as dt
import hashlib
import io
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cryosparc
import numpy as np
from cryosparc.constants import API_SUFFIX
from cryosparc.dataset import Dataset
from cryosparc.models.job import Job
from cryosparc.models.job_spec import (
    Connection,
    Input,
    InputResult,
    Inputs,
    InputSlot,
    JobSpec,
    Output,
    OutputResult,
    Outputs,
    OutputSlot,
)
from cryosparc.models.resource import ResourceSpec
from cryosparc.models.user import User

EMAIL, PASSWORD = "someone@example.org", "a password"
TOKEN = "a-token"
STREAMS = {"Dataset": Dataset.media_type, "Stream": "application/octet-stream"}
USED = {
    "ConfigAPI": ("get_version",),
    "UsersAPI": ("me",),
    "ProjectsAPI": ("find_one", "get_directory"),
    "AssetsAPI": ("upload",),
    "JobsAPI": (
        "create", "find_one", "get_directory", "add_external_input", "add_external_output", "connect", "load_input",
        "save_output", "mark_running", "mark_completed", "mark_failed", "add_event_log", "update_event_log",
        "add_image_log", "set_output_image",
    ),
    "APIClient": ("login",),
}  # fmt: skip


class RefusedError(Exception):
    """An answer with a status of its own."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def description() -> dict[str, Any]:
    """The interface as an OpenAPI document, of the functions that are used here."""
    source = Path(cryosparc.__file__).with_name("api.pyi").read_text()
    paths = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name in USED:
            namespace = "" if node.name == "APIClient" else f"{node.name.removesuffix('API').lower()}."
            for function in node.body:
                if isinstance(function, ast.FunctionDef) and function.name in USED[node.name]:
                    name = f"{namespace}{function.name}"
                    arguments = [f"{{{one.arg}}}" for one in function.args.posonlyargs if one.arg != "self"]
                    paths["/".join(["", name.replace(".", "/"), *arguments])] = {"post": _endpoint(name, function)}
    assert len(paths) == sum(map(len, USED.values()))
    return {"openapi": "3.1.0", "info": {}, "components": {}, "paths": paths}


def _endpoint(name: str, function: ast.FunctionDef) -> dict[str, Any]:
    arguments = function.args
    found: dict[str, Any] = {"summary": name, "parameters": []}
    for one in arguments.posonlyargs:
        if one.arg != "self":
            found["parameters"].append({"name": one.arg, "in": "path", "required": True})
    if name == "login":
        found["requestBody"] = {"content": {"application/x-www-form-urlencoded": {"schema": {}}}}
    else:
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            found["parameters"].append({"name": one.arg, "in": "query", "required": default is None})
        for one in (one for one in arguments.args if one.arg != "self"):
            kind = STREAMS.get(ast.unparse(one.annotation) if one.annotation else "", "application/json")
            found["requestBody"] = {"content": {kind: {"schema": {"title": one.arg}}}}
    answer = ast.unparse(function.returns) if function.returns else "None"
    if answer in STREAMS:
        found["responses"] = {"201": {"content": {STREAMS[answer]: {"schema": {}}}}}
    else:
        schema = {"type": "string"} if answer == "str" else {"$ref": f"#/components/schemas/{answer}"}
        found["responses"] = {"200": {"content": {"application/json": {"schema": schema}}}}
    return found


@dataclass
class Call:
    """One call of the interface: its name, positional arguments, keywords and body."""

    name: str
    arguments: list[str]
    keywords: dict[str, Any]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class Instance:
    """Projects, jobs and their outputs.

    Parameters
    ----------
    folder : Path
        Of the project P3.
    """

    folder: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    data: dict[tuple[str, str], Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    assets: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    refuse: dict[str, str] = field(default_factory=dict)  # names of calls, and what is answered instead
    kill: str = ""  # a job that its user kills as soon as it runs

    def named(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]

    def add_job(self, uid: str, outputs: dict[str, tuple[str, Any]], kind: str = "class_2D_new") -> None:
        """A finished job with outputs: (type, Dataset)."""
        described = {
            name: Output(
                type=type_, title=name, slots=[OutputSlot(name=slot, dtype=slot) for slot in dataset.prefixes()],
                results=[OutputResult(name=slot, dtype=slot) for slot in dataset.prefixes()], num_items=len(dataset),
            )
            for name, (type_, dataset) in outputs.items()
        }  # fmt: skip
        self.data |= {(uid, name): dataset for name, (_, dataset) in outputs.items()}
        self.jobs[uid] = self._job(uid, kind, Outputs(described), "completed")

    def _job(self, uid: str, kind: str, outputs: Outputs, status: Any, title: str = "") -> Job:
        (self.folder / uid).mkdir(exist_ok=True)
        now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        spec = JobSpec(
            type=kind, inputs=Inputs({}), outputs=outputs, ui_tile_width=1, ui_tile_height=1,
            resource_spec=ResourceSpec(),
        )  # fmt: skip
        return Job(
            uid=uid, project_uid="P3", spec=spec, job_dir=uid, job_dir_size_last_updated=now, title=title,
            status=status, uid_num=int(uid[1:]), project_uid_num=3, status_num=0, build_errors=[],
        )  # fmt: skip

    # Answers, by the name of the function -----------------------------------------------------------------------------

    def answer(self, call: Call) -> Any:
        if call.name in self.refuse:
            raise RefusedError(400, self.refuse[call.name])
        return getattr(self, f"do_{call.name.replace('.', '_')}")(call, *call.arguments, **call.keywords)

    def job(self, uid: str) -> Job:
        if uid not in self.jobs:
            raise RefusedError(404, f"Job {uid} not found")
        return self.jobs[uid]

    def external(self, uid: str, *statuses: str) -> Job:
        job = self.job(uid)
        if job.spec.type != "snowflake":
            raise RefusedError(400, f"{uid} is not an external job")
        if statuses and job.status not in statuses:
            raise RefusedError(400, f"{uid} is {job.status}, expected {' or '.join(statuses)}")
        return job

    def do_login(self, call: Call) -> Any:
        given = dict(urllib.parse.parse_qsl(call.body.decode()))
        if given["username"] != EMAIL or given["password"] != hashlib.sha256(PASSWORD.encode()).hexdigest():
            raise RefusedError(401, "Incorrect username or password")
        return {"access_token": TOKEN, "token_type": "bearer"}

    def do_users_me(self, _: Call) -> Any:
        return User(name="someone", first_name="Some", last_name="One")

    def do_config_get_version(self, _: Call) -> str:
        return f"v{cryosparc.__version__}"

    def do_projects_find_one(self, _: Call, project: str) -> Any:
        if project != "P3":
            raise RefusedError(404, f"Project {project} not found")
        return {
            "_id": "0", "uid": "P3", "project_dir": str(self.folder), "title": "A project", "owner_user_id": "0",
            "uid_num": 3, "size_last_updated": "2026-01-01T00:00:00Z",
        }  # fmt: skip

    def do_projects_get_directory(self, _: Call, project: str) -> str:
        return str(self.folder)

    def do_jobs_find_one(self, _: Call, project: str, uid: str) -> Job:
        if uid == self.kill and self.job(uid).status == "running":
            self.job(uid).status = "killed"
        return self.job(uid)

    def do_jobs_get_directory(self, _: Call, project: str, uid: str) -> str:
        return str(self.folder / self.job(uid).job_dir)

    def do_jobs_create(
        self, call: Call, project: str, workspace: str, title: str = "", description: str = "", **_: str
    ) -> Job:
        if workspace != "W1":
            raise RefusedError(404, f"Workspace {workspace} not found")
        uid = f"J{max(int(one[1:]) for one in self.jobs) + 1}"
        self.jobs[uid] = self._job(uid, call.keywords["type"], Outputs({}), "building", title)
        return self.jobs[uid]

    def do_jobs_add_external_input(self, call: Call, project: str, uid: str, name: str) -> Job:
        job, spec = self.external(uid, "building", "running", "waiting"), call.json
        slots = [InputSlot(**slot) for slot in spec.pop("slots")]
        job.spec.inputs.root[name] = Input(**spec, slots=slots)
        return job

    def do_jobs_connect(
        self, _: Call, project: str, uid: str, name: str, source_output_name: str, source_job_uid: str
    ) -> Job:
        job, output = self.external(uid, "building"), self.job(source_job_uid).spec.outputs.root[source_output_name]
        target = job.spec.inputs.root[name]
        have = {result.name for result in output.results}
        missing = [slot.name for slot in target.slots if slot.required and slot.name not in have]
        if missing or target.type != output.type:
            raise RefusedError(400, f"{source_job_uid}.{source_output_name} has no {', '.join(missing) or target.type}")
        known = {slot.name for slot in target.slots}
        results = [
            InputResult(
                name=result.name if result.name in known else None, dtype=result.dtype, job_uid=source_job_uid,
                output=source_output_name, result=result.name,
            )
            for result in output.results
        ]  # fmt: skip
        target.connections.append(Connection(job_uid=source_job_uid, output=source_output_name, results=results))
        return job

    def do_jobs_load_input(self, _: Call, project: str, uid: str, name: str, slots: str = "default") -> Any:
        parts = [self.data[one.job_uid, one.output] for one in self.external(uid).spec.inputs.root[name].connections]
        if slots != "all" or not parts:
            raise RefusedError(400, f"slots={slots} is not what is expected here")
        return Dataset.append_many(*parts) if len(parts) > 1 else parts[0]

    def do_jobs_add_external_output(self, call: Call, project: str, uid: str, name: str) -> Job:
        job, spec = self.external(uid, "building", "running", "waiting"), call.json
        if spec.get("passthrough") and spec["passthrough"] not in job.spec.inputs.root:
            raise RefusedError(400, f"no input {spec['passthrough']}")
        slots = [OutputSlot(**slot) for slot in spec.pop("slots")]
        job.spec.outputs.root[name] = Output(**spec, slots=slots)
        return job

    def do_jobs_save_output(self, call: Call, project: str, uid: str, name: str, version: str = "0") -> Job:
        job = self.external(uid, "running", "waiting")
        output, dataset = job.spec.outputs.root[name], Dataset.load(io.BytesIO(call.body))
        wanted = {slot.name for slot in output.slots}
        if set(dataset.prefixes()) != wanted:
            raise RefusedError(400, f"{name}: slots {sorted(dataset.prefixes())}, expected {sorted(wanted)}")
        if output.passthrough:
            inputs = [self.data[c.job_uid, c.output] for c in job.spec.inputs.root[output.passthrough].connections]
            if not np.isin(dataset["uid"], np.concatenate([one["uid"] for one in inputs])).all():
                raise RefusedError(400, f"{name}: rows that are not of {output.passthrough}")
        self.data[uid, name], output.num_items = dataset, len(dataset)
        return job

    def do_jobs_mark_running(self, _: Call, project: str, uid: str, status: Any = "running") -> Job:
        job = self.external(uid)
        for name, target in job.spec.inputs.root.items():
            if len(target.connections) < target.count_min:
                raise RefusedError(400, f"input {name} is not connected")
        job.status = status
        return job

    def do_jobs_mark_completed(self, _: Call, project: str, uid: str) -> Job:
        self.external(uid).status = "completed"
        return self.job(uid)

    def do_jobs_mark_failed(self, _: Call, project: str, uid: str, error: str = "") -> Job:
        self.external(uid).status = "failed"
        self.events.append({"type": "error", "text": error})
        return self.job(uid)

    def do_jobs_add_event_log(self, call: Call, project: str, uid: str, **_: str) -> Any:
        return self._event({"type": call.keywords.get("type", "text"), "text": call.json})

    def do_jobs_update_event_log(self, call: Call, project: str, uid: str, number: str, **_: str) -> Any:
        event = self.events[int(number)]
        event |= {"type": call.keywords.get("type", "text"), "text": call.json}
        return event

    def do_jobs_add_image_log(self, call: Call, project: str, uid: str, text: str, flags: Any = ()) -> Any:
        return self._event({"type": "image", "text": text, "imgfiles": call.json})

    def _event(self, about: dict[str, Any]) -> dict[str, Any]:
        self.events.append({"_id": str(len(self.events)), "project_uid": "P3", "job_uid": "J9"} | about)
        return self.events[-1]

    def do_assets_upload(self, call: Call, project: str, uid: str, filename: str = "", **_: str) -> Any:
        number = str(len(self.assets))
        self.assets[number] = call.body
        return {"fileid": number, "filename": filename, "filetype": call.keywords["format"]}

    def do_jobs_set_output_image(self, call: Call, project: str, uid: str, name: str) -> Job:
        self.external(uid).spec.outputs.root[name].image = call.json["fileid"]
        return self.job(uid)


@contextmanager
def serve(instance: Instance) -> Iterator[Instance]:
    """Answer requests on a port of this host while the block lasts; its address is `instance.url`."""
    schema = description()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            assert self.path == f"{API_SUFFIX}/openapi.json", self.path
            self._send(200, "application/json", json.dumps(schema).encode())

        def do_POST(self) -> None:
            path, _, query = self.path.removeprefix(API_SUFFIX).partition("?")
            body = self._body()
            words = [urllib.parse.unquote(word) for word in path.split("/")[1:]]
            name, arguments = (words[0], words[1:]) if words[0] == "login" else (".".join(words[:2]), words[2:])
            call = Call(name, arguments, dict(urllib.parse.parse_qsl(query)), body)
            if name != "login" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, "application/json", b'{"detail": "not logged in"}')
                return
            instance.calls.append(call)
            try:
                found = instance.answer(call)
            except RefusedError as why:
                self._send(why.status, "application/json", json.dumps({"detail": str(why)}).encode())
                return
            if isinstance(found, Dataset):
                self._send(201, Dataset.media_type, b"".join(found.stream()))
                return
            plain = found.model_dump(mode="json", by_alias=True) if hasattr(found, "model_dump") else found
            self._send(200, "application/json", json.dumps(plain).encode())

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    instance.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield instance
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
