"""`llmrec chat`: talk with a trained run, in the terminal or on a page."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec import resources, trusted_urls
from llmrec.cli.screen import console, screen
from llmrec.cli.serve import EXTRA
from llmrec.errors import RequestError, RunError

if TYPE_CHECKING:
    from llmrec.chat.client import Client
    from llmrec.chat.dialogue import Speaker
    from llmrec.recipe import Chat


def chat(
    run: str = typer.Argument(help="a run folder, an export of one, or the address of a running `llmrec serve`"),
    overrides: list[str] = typer.Argument(None, help="changes such as `chat.by=model`", metavar="[KEY=VALUE]..."),
    page: bool = typer.Option(False, "--page", help="serve a page instead of talking in the terminal"),
    host: str = typer.Option("127.0.0.1", help="of the page; another than this machine needs LLMREC_PAGE_LOGIN"),
    port: int = typer.Option(7860, min=1, max=65535, help="of the page"),
    engine: str = typer.Option("transformers", help="of the server that is started for a folder: transformers or vllm"),
    encoder: str = typer.Option("", help="of descriptions and free words; the run's own otherwise; none for none"),
    k: int = typer.Option(10, "-k", min=1, help="items shown in the terminal"),
) -> None:
    """Talk with a trained run, in the terminal or on a page: every item is a real one."""
    address = run.startswith(("http://", "https://"))
    if engine not in EXTRA:
        raise RequestError(f"there is no engine '{engine}': say transformers or vllm.")
    resources.require_extras("chat", *([] if address else [EXTRA[engine]]))
    from llmrec.chat.client import KEY, Client, OwnServer
    from llmrec.chat.dialogue import ChatService
    from llmrec.items.vectors import check_encoder

    if page:
        from llmrec.chat.page_guard import LOGIN, check_host, login_of
        from llmrec.serve.access import bind, url

        login = login_of(os.environ.pop(LOGIN, None))  # the server that is started below has no use for it
        check_host(host, login)
        listening = bind(host, port)
    settings, own_encoder = _recipe(run, address, overrides or [])
    reads = None if encoder == "none" else encoder or own_encoder
    if reads:
        check_encoder(reads)
    if settings.by == "server":
        trusted_urls.require_trusted(str(settings.url), "chat.url")
    with contextlib.ExitStack() as stack:
        if not address:
            console.print(f"starting the server of {run} …")
        own = None if address else stack.enter_context(OwnServer(Path(run), engine))
        client = Client(own.url, own.key) if own else Client(run, os.environ.get(KEY))
        service = ChatService(client, reads, None if address else Path(run), own, _speaker(settings, client))
        if page:
            from llmrec.chat.page import server

            console.print(url(listening))
            server(service, str(client.version()["model"]), listening, login).run([listening])
        else:
            from llmrec.chat.terminal import talk

            talk(service, screen, k)


def _recipe(run: str, address: bool, overrides: list[str]) -> tuple[Chat, str]:
    """The part `chat` and the encoder: what the run's recipe says, and what was typed."""
    from llmrec.recipe_file import read
    from llmrec.run.layout import RunFolder, recipe_of

    if not address and not Path(run).is_dir():
        raise RunError(f"there is no folder {run}. Make a run with: llmrec run quickstart --out {run}")
    is_run = not address and RunFolder(Path(run)).is_run()
    recipe = recipe_of(Path(run), overrides) if is_run else read("", Path("the command line"), overrides)
    return recipe.chat, recipe.items.encoder


def _speaker(settings: Chat, client: Client) -> Speaker:
    from llmrec.chat.dialogue import speak_template
    from llmrec.chat.speaker import Model, Served

    if settings.by == "server":
        return Model(str(settings.url), str(settings.model))
    return Served(client, str(client.version()["model"])) if settings.by == "model" else speak_template
