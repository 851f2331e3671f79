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
    from llmrec.chat.dialogue import ReplyGenerator
    from llmrec.recipe import Chat


def chat(
    run: str = typer.Argument(help="a run folder, an export, or the URL of a running `llmrec serve`"),
    overrides: list[str] = typer.Argument(
        None, help="changes to the recipe, such as `chat.by=model`", metavar="[KEY=VALUE]..."
    ),
    page: bool = typer.Option(False, "--page", help="chat on a web page instead of in the terminal"),
    host: str = typer.Option("127.0.0.1", help="address of the page; other than this machine needs LLMREC_PAGE_LOGIN"),
    port: int = typer.Option(7860, min=1, max=65535, help="port of the page"),
    engine: str = typer.Option("transformers", help="transformers or vllm, for the server of a folder"),
    encoder: str = typer.Option(
        "", help="text encoder for descriptions and free words; default: that of the run; none: no encoder"
    ),
    k: int = typer.Option(10, "-k", min=1, help="number of items shown in the terminal"),
) -> None:
    """Chat with a trained run, in the terminal or on a web page; every recommended item is from the catalogue."""
    is_url = run.startswith(("http://", "https://"))
    if engine not in EXTRA:
        raise RequestError(f"there is no engine '{engine}': use transformers or vllm.")
    resources.require_extras("chat", *([] if is_url else [EXTRA[engine]]))
    from llmrec.chat.client import KEY, Client, OwnServer
    from llmrec.chat.dialogue import ChatService
    from llmrec.items.item_vectors import check_encoder

    if page:
        from llmrec.chat.page_guard import LOGIN, check_host, login_of
        from llmrec.serve.access import bind, url

        login = login_of(os.environ.pop(LOGIN, None))  # not for the server that is started below
        check_host(host, login)
        listening = bind(host, port)
    settings, own_encoder = _recipe(run, is_url, overrides or [])
    reads = None if encoder == "none" else encoder or own_encoder
    if reads:
        check_encoder(reads)
    if settings.by == "server":
        trusted_urls.require_trusted(str(settings.url), "chat.url")
    with contextlib.ExitStack() as stack:
        if not is_url:
            console.print(f"starting the server of {run} …")
        own = None if is_url else stack.enter_context(OwnServer(Path(run), engine))
        client = Client(own.url, own.key) if own else Client(run, os.environ.get(KEY))
        service = ChatService(client, reads, None if is_url else Path(run), own, _speaker(settings, client))
        if page:
            from llmrec.chat.page import server

            console.print(url(listening))
            server(service, str(client.version()["model"]), listening, login).run([listening])
        else:
            from llmrec.chat.terminal import talk

            talk(service, screen, k)


def _recipe(run: str, is_url: bool, overrides: list[str]) -> tuple[Chat, str]:
    """Return the recipe part `chat` and the encoder, with overrides."""
    from llmrec.recipe_file import read
    from llmrec.run.layout import RunFolder, recipe_of

    if not is_url and not Path(run).is_dir():
        raise RunError(f"there is no folder {run}. Make a run with: llmrec run quickstart --out {run}")
    is_run = not is_url and RunFolder(Path(run)).is_run()
    recipe = recipe_of(Path(run), overrides) if is_run else read("", Path("the command line"), overrides)
    return recipe.chat, recipe.items.encoder


def _speaker(settings: Chat, client: Client) -> ReplyGenerator:
    from llmrec.chat.dialogue import template_replies
    from llmrec.chat.replies import ModelReplyGenerator, ServerReplyGenerator

    if settings.by == "server":
        return ServerReplyGenerator(str(settings.url), str(settings.model))
    return ModelReplyGenerator(client, str(client.version()["model"])) if settings.by == "model" else template_replies
