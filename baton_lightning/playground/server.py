"""`try`: a page in your browser on which you write prompts, see their plan, change it, and play the clips. Served to this machine alone."""

from __future__ import annotations

import argparse
import json
import logging
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.arguments import Parser

if TYPE_CHECKING:
    from werkzeug.wrappers import Request, Response

LOOPBACK = "127.0.0.1"
LARGEST_REQUEST = 64_000
"""Maximum size of a request, in bytes."""
PAGE = Path(__file__).with_name("page.html")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:; connect-src 'self'"


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="python -m baton_lightning try",
        description=__doc__,
        epilog="Without --run it uses the weights that come with the library: a tiny model of the benchmark world. docs/prompts.md has its "
        "prompt language. Ctrl+C ends it.",
    )
    made.add_argument("--run", default="nano", help="folder of a joint run or of its export, or `nano` (default: %(default)s)")
    made.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1; 0 takes a free one (default: %(default)s)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    made.add_argument("--no-browser", action="store_true", help="print the address only")
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    if not 0 <= options.port <= 65535:
        raise ValueError(f"try: --port must lie in [0, 65535], got {options.port}")
    from baton_lightning.generation.pretrained import folder_of
    from baton_lightning.generation.run_description import require_run

    require_run(folder_of(options.run), None)
    from werkzeug.serving import make_server

    from baton_lightning.generation.pipeline import load
    from baton_lightning.playground.desk import Desk
    from baton_lightning.stages.plan_sources import PlannedTokens

    pipe = load(options.run, device=options.device)
    if not isinstance(pipe.generator.model.plan, PlannedTokens):
        raise ValueError(f"try: {options.run} has no planner, so it makes no plans of prompts; give a joint run")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    try:
        server = make_server(LOOPBACK, options.port, application(Desk(pipe, str(options.run))), threaded=True)
    except (OSError, SystemExit) as error:
        raise ValueError(f"try: port {options.port} on {LOOPBACK} is in use; give another one, or --port 0 for a free one") from error
    address = f"http://{LOOPBACK}:{server.port}/"
    print(f"try: {address} is open until you press Ctrl+C", flush=True)
    if not options.no_browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0


def application(desk: Any) -> Callable[..., Any]:
    """The WSGI application of a desk. It answers requests to this machine's own address only.

    Args:
        desk: See :class:`~baton_lightning.playground.desk.Desk`.
    """
    from werkzeug.wrappers import Request

    actions: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"plan": desk.plan, "edit": desk.edit, "clip": desk.clip}

    @Request.application
    def answer(request: Request) -> Response:
        request.max_content_length = LARGEST_REQUEST
        if request.host.rpartition(":")[0] not in (LOOPBACK, "localhost"):  # another site's name that leads here
            return reply({"error": "this page is for this machine alone"}, 403)
        if request.method == "GET" and request.path == "/":
            return reply(PAGE.read_text(), kind="text/html")
        if request.method == "GET" and request.path == "/about":
            return reply(desk.about())
        action = actions.get(request.path[1:]) if request.method == "POST" else None
        if action is None:
            return reply({"error": f"there is no {request.method} {request.path[:40]}"}, 404)
        if request.mimetype != "application/json":  # which other sites' forms cannot send
            return reply({"error": "requests must be JSON"}, 415)
        return acted(action, request)

    return answer


def acted(action: Callable[[Mapping[str, Any]], dict[str, Any]], request: Request) -> Response:
    """The answer of an action; a user's mistake is told in one line."""
    from werkzeug.exceptions import HTTPException

    try:
        values = json.loads(request.get_data())
        if not isinstance(values, dict):
            raise ValueError("a request must be a JSON object")
        return reply(action(values))
    except HTTPException:
        return reply({"error": f"a request must have at most {LARGEST_REQUEST:,} bytes"}, 413)
    except (ValueError, RecursionError) as error:
        return reply({"error": str(error)[:500]}, 400)


def reply(content: Any, status: int = 200, kind: str = "application/json") -> Response:
    """A response that loads nothing from elsewhere and is not shown inside other pages."""
    from werkzeug.wrappers import Response

    text = content if isinstance(content, str) else json.dumps(content)
    headers = {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY", "Cache-Control": "no-store"}
    return Response(text, status=status, headers=headers, mimetype=kind)
